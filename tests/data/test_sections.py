"""The section parser on the shapes that real reports have."""

import random

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


def test_the_word_addendum_in_a_sentence_opens_no_addendum() -> None:
    report = parse_report(
        "FINDINGS: Clear, see the\naddendum for details of the fracture.\nNo mass."
    )
    assert report.findings == "Clear, see the addendum for details of the fracture. No mass."
    assert report.addenda == ()


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
        ("CHEST\n\nThe lungs are clear.\n\nIMPRESSION: Normal.", "no_findings_header"),
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


def test_no_header_at_all() -> None:
    """Case C32 of the public bug reports: no findings, and the paragraph is not lost."""
    report = parse_report(
        "FINAL REPORT\n PORTABLE CHEST\n\n The lungs are clear. Heart size is normal. No effusion."
    )
    assert report.findings is None
    assert report.paragraph == "The lungs are clear. Heart size is normal. No effusion."
    assert report.no_findings_reason == "no_findings_header"


def test_mixed_case_headers_and_the_same_words_in_sentences() -> None:
    """Case C34."""
    report = parse_report(
        "Findings: Lungs are clear.\nimpression - No acute disease.\n"
        "The above findings were discussed. Impression of the ribs on the lung is noted."
    )
    assert report.findings == "Lungs are clear."
    assert report.impression == (
        "No acute disease. The above findings were discussed. "
        "Impression of the ribs on the lung is noted."
    )


def test_a_numbered_list_with_measurements_and_broken_lines() -> None:
    """Case C36."""
    report = parse_report(
        "IMPRESSION:\n 1.  Effusion of 2.5 cm.\n 2.  Fracture at T12.\n 3.  No\n     pneumothorax."
    )
    assert report.impression == "Effusion of 2.5 cm. Fracture at T12. No pneumothorax."


def test_random_documents_keep_the_contract() -> None:
    """Findings or a reason, never both and never neither; no section is blank or multi-line."""
    # fmt: off
    pieces = (
        "FINDINGS", "Findings:", "IMPRESSION:", "impression", "-", "HISTORY:", "1.", "2)", "___",
        "XXXX", "CHEST:", "and", "/", ".", ",", ":", "(", ")", "ADDENDUM:", "________", "lungs",
        "clear", "The", "seen", "below", "\n", "\n\n", "FINAL REPORT", "WET READ:",
    )
    # fmt: on
    generator = random.Random(7)
    for _ in range(500):
        words = generator.choices(pieces, k=generator.randrange(60))
        report = parse_report(" ".join(words))
        assert (report.findings is None) == (report.no_findings_reason is not None)
        texts = [report.findings, report.impression, report.indication, report.paragraph]
        for text in [*texts, report.wet_read, *report.addenda, *report.other.values()]:
            assert text is None or (text and text == " ".join(text.split()))
