"""The section parser on the shapes that real reports have."""

import json
from pathlib import Path

import pytest

from llava_rad.data import ReportSections, parse_report

MIMIC = """                                 WET READ: ___ ___ ___ 8:10 PM
 Right basal opacity. IMPRESSION: preliminary.
______________________________________________________________________________
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // eval for pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 LUNGS: The lungs are clear. There is no
 focal consolidation.
 HEART: Normal.

 IMPRESSION:

 No acute cardiopulmonary process.

 NOTIFICATION:  Dr. ___ was told at 9:00 PM.
"""


def test_a_whole_report() -> None:
    report = parse_report(MIMIC)
    assert report == ReportSections(
        indication="___ year old woman with cough // eval for pneumonia",
        technique="Chest PA and lateral",
        comparison="___",
        findings="LUNGS: The lungs are clear. There is no focal consolidation. HEART: Normal.",
        impression="No acute cardiopulmonary process.",
        wet_read="Right basal opacity. IMPRESSION: preliminary.",
        other={
            "examination": "CHEST (PA AND LAT)",
            "notification": "Dr. ___ was told at 9:00 PM.",
        },
    )


def test_windows_line_ends_change_nothing() -> None:
    assert parse_report(MIMIC.replace("\n", "\r\n")) == parse_report(MIMIC)


def test_an_addendum_stays_out_of_the_final_sections() -> None:
    report = parse_report(
        "FINAL ADDENDUM\n ADDENDUM: The tube ends high.\n FINDINGS: Wrong.\n" + "_" * 70 + "\n"
        " FINAL REPORT\n FINDINGS: Right.\n IMPRESSION: Right too.\n\n ADDENDUM:\n Told Dr. B."
    )
    assert report.findings == "Right."
    assert report.impression == "Right too."
    assert report.addenda == ("The tube ends high. FINDINGS: Wrong.", "Told Dr. B.")


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear. IMPRESSION: Normal.",
        "Findings: Clear.\nImpression: Normal.",
        "findings: Clear.\nimpression: Normal.",
        "FINDINGS\nClear.\n\nIMPRESSION\nNormal.",
        "Findings - Clear.\nImpression – Normal.",
        "Chest findings : Clear.\nCONCLUSION: Normal.",
        "OBSERVATIONS: Clear. Opinion: Normal.",
        "HISTORY: Cough. REASON FOR EXAM: Fever. FINDINGS: Clear. IMPRESSIONS: Normal.",
        "PA AND LATERAL VIEWS OF THE CHEST:  Clear lungs.\nIMPRESSION: Normal.",
    ],
)
def test_headers_in_any_shape(text: str) -> None:
    report = parse_report(text)
    assert report.findings in ("Clear.", "Clear lungs.")
    assert report.impression == "Normal."
    assert report.no_findings_reason is None


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: The above findings were discussed. Impression of a rib on the lung.",
        "FINDINGS: See the\nfindings: of CT and the prior\nhistory of cancer.",
        "FINDINGS: Comparison is made to CT. Reason unclear. There is a\nreport of cough.",
    ],
)
def test_words_inside_sentences_are_no_headers(text: str) -> None:
    report = parse_report(text)
    assert report.findings == " ".join(text.removeprefix("FINDINGS: ").split())
    assert report.impression is report.comparison is report.indication is None


@pytest.mark.parametrize(
    "header",
    ["FINDINGS AND IMPRESSION", "Findings/Impression", "IMPRESSION & FINDINGS"],
)
def test_combined_header_is_findings_and_says_so(header: str) -> None:
    report = parse_report(f"COMPARISON: None.\n{header}: Clear. Normal.")
    assert (report.findings, report.impression, report.combined) == ("Clear. Normal.", None, True)


def test_other_combined_headers_keep_their_text() -> None:
    report = parse_report("INDICATION/COMPARISON: Cough.\nTECHNIQUE AND FINDINGS: Clear.")
    assert (report.indication, report.comparison) == ("Cough.", None)
    assert (report.findings, report.combined) == ("Clear.", False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("PORTABLE CHEST\n\nThe lungs are clear.", "no_findings_header"),
        ("IMPRESSION: Normal.", "findings_only_in_impression"),
        ("FINDINGS:\n\nIMPRESSION: Normal.", "findings_empty"),
        ("FINDINGS: Please see impression.\nIMPRESSION: Normal.", "findings_empty"),
        ("FINAL REPORT\nPORTABLE CHEST", "no_text"),
        ("", "no_text"),
    ],
)
def test_a_report_without_findings_says_why(text: str, reason: str) -> None:
    report = parse_report(text)
    assert report.findings is None
    assert report.no_findings_reason == reason


def test_a_repeated_section_keeps_both_texts() -> None:
    report = parse_report("FINDINGS: One.\nIMPRESSION: Two.\nFINDINGS: Three.")
    assert report.findings == "One. Three."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("1. Clear.\n2. No effusion.", "Clear. No effusion."),
        ("1) Clear. 2) No effusion.", "Clear. No effusion."),
        ("(1) Clear.\n(2) No effusion.", "Clear. No effusion."),
        ("1.CLEAR.\n\n2.NO EFFUSION.", "CLEAR. NO EFFUSION."),
        ("- Clear.\n- No effusion.", "Clear. No effusion."),
        ("* Clear.\n• No effusion.", "Clear. No effusion."),
        ("1. A nodule of 2.\n2. It is stable.", "A nodule of 2. It is stable."),
        (
            "Nodule of 1.5 x 2.0 cm at T12. 3 of 4 ribs.",
            "Nodule of 1.5 x 2.0 cm at T12. 3 of 4 ribs.",
        ),
        ("Seen on 2 views. 12. rib fracture.", "Seen on 2 views. 12. rib fracture."),
        (
            "Tube 4 cm above the carina.\n5. rib broken.",
            "Tube 4 cm above the carina. 5. rib broken.",
        ),
    ],
)
def test_list_numbers_go_and_measurements_stay(text: str, clean: str) -> None:
    assert parse_report(f"FINDINGS: {text}").findings == clean


def _input(case: dict) -> str:
    """The report inside a case's description: its first quoted text."""
    return case["input"].split("'")[1].replace("\\n", "\n")


def test_public_bug_reports(shared_cases: Path) -> None:
    """Cases C32, C34, C36 of the public bug reports."""
    lines = (shared_cases / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {case["id"]: case for case in map(json.loads, lines)}

    headerless = parse_report(_input(cases["C32"]))
    assert headerless.findings is None
    assert headerless.paragraph == "The lungs are clear. Heart size is normal. No effusion."
    assert headerless.no_findings_reason == "no_findings_header"

    mixed = parse_report(_input(cases["C34"]))
    assert mixed.findings == "Lungs are clear."
    assert mixed.impression == (
        "No acute disease. The above findings were discussed. "
        "Impression of the ribs on the lung is noted."
    )

    numbered = parse_report(_input(cases["C36"]))
    assert numbered.impression == "Effusion of 2.5 cm. Fracture at T12. No pneumothorax."
