"""A hundred reports of known sections, in the shapes that hospitals write them."""

import time

import pytest

from llava_rad.data import ConversionLog, parse_report
from llava_rad.data.deidentification import remove_marks
from llava_rad.data.header_spelling import meant_header
from llava_rad.data.image_sentences import image_sentences
from llava_rad.data.prior_comparisons import without_prior_comparisons
from llava_rad.data.report_text import text_fields
from llava_rad.metrics.rules import label_reports

INDICATION = "___-year-old woman with cough, rule out pneumonia"
TECHNIQUE = "Chest, PA and lateral"
COMPARISON = "Radiograph from ___"
FINDINGS = (
    "LUNGS: Clear, with no 2.5 cm nodule. HEART: Normal in size. PLEURA: No effusion. "
    "None of the lines has moved. TUBES: Tip 4 cm above the carina"
)
IMPRESSION = "No acute process. Medications were not reviewed"
RULE = "_" * 78

# The words for indication, technique, comparison, findings, impression; and what stands between.
HEADERS = [
    ("INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"),
    ("HISTORY", "PROCEDURE", "COMPARISONS", "FINDINGS", "CONCLUSION"),
    ("REASON FOR EXAM", "TECHNIQUE", "PRIORS", "FINDING", "OPINION"),
    ("Clinical history", "Technique", "Comparison", "Findings", "Impression"),
    ("CLINICAL INDICATION", "VIEWS", "COMPARISON STUDY", "CHEST FINDINGS", "IMPRESSIONS"),
    # misspelt
    ("INDICATON", "TECHINQUE", "COMPARISION", "FIDNINGS", "IMPRESSON"),
    ("INIDCATION", "TECNIQUE", "COMPARSION", "FINDNGS", "IMPRESION"),
    ("CLINCAL HISTORY", "TECHNQIUE", "COMAPRISON", "FINIDNGS", "IMRPESSION"),
    ("Indicaiton", "Technique", "Comparison", "Findigns", "Impresssion"),
    ("REASON FOR EXAMM", "TECHNIQUE", "COMPARISON", "F1NDINGS", "IMPRESSIOIN"),
]
LAYOUTS = [
    " {0}: {1}\n\n",
    "{0}:  {1}\n",
    " {0}:\n\n {1}\n\n",
    "{0} :\r\n   {1}\r\n",
    "{0}: {1} ",
]
AROUND = [
    ("", "", {}),
    (
        f" WET READ: ___ ___ ___ 9:50 PM\n  Right basal opacity.\n{RULE}\n FINAL REPORT\n",
        "",
        {"wet_read": "Right basal opacity."},
    ),
    ("", "\n\n ADDENDUM: Told to Dr. B.", {"addenda": ("Told to Dr. B.",)}),
]


def report(names, layout):
    texts = (INDICATION, TECHNIQUE, COMPARISON, FINDINGS, IMPRESSION)
    return "".join(layout.format(n, f"{t}.") for n, t in zip(names, texts, strict=True))


@pytest.mark.parametrize("around", AROUND, ids=["plain", "wet read", "addendum"])
@pytest.mark.parametrize("names", HEADERS, ids=lambda names: names[3])
def test_the_sections_of_reports_in_every_shape(names, around):
    before, after, expected = around
    for layout in LAYOUTS:
        found = parse_report(before + report(names, layout) + after)
        assert found.indication == f"{INDICATION}."
        assert found.technique == f"{TECHNIQUE}."
        assert found.comparison == f"{COMPARISON}."
        assert found.findings == f"{FINDINGS}."
        assert found.impression == f"{IMPRESSION}."
        assert (found.wet_read, found.addenda) == (
            expected.get("wet_read"),
            expected.get("addenda", ()),
        )
        right = {name.lower() for names in HEADERS[:5] for name in names}
        assert set(found.misspelt) == {name for name in names if name.lower() not in right}


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("FINDINGS: Clear. IMPRESSON: Normal.", "Clear.", "Normal."),
        ("FIDNINGS: Clear.\nIMPRESSION: Normal.", "Clear.", "Normal."),
        ("INDICATION: Cough.\nFINDNIGS: Clear.\nIMPRESION: Normal.", "Clear.", "Normal."),
        ("FINDINGS:\nClear.\n\nIMPRESSON\n\nNormal.", "Clear.", "Normal."),
    ],
)
def test_a_misspelt_header_neither_joins_nor_leaks(text, findings, impression):
    found = parse_report(text)
    assert (found.findings, found.impression) == (findings, impression)
    assert found.indication in (None, "Cough.")


@pytest.mark.parametrize(
    "word",
    [
        *("lungs", "heart", "pleura", "bones", "mediastinum", "lines", "tubes", "hila", "other"),
        *(
            "lungs and airways",
            "lines and tubes",
            "cardiac silhouette",
            "soft tissues",
            "chest wall",
        ),
        *("medications", "medication", "occlusion", "contusion", "compression", "depression"),
        *(
            "expression",
            "confusion",
            "concussion",
            "fittings",
            "region",
            "reasons",
            "view",
        ),
        *("diaphragm", "pneumothorax", "devices", "upper abdomen", "support devices", "osseous"),
        *("effusion", "infusion", "inspiration", "position", "condition", "dictation", "addition"),
    ],
)
def test_headers_of_structured_findings_stay_where_they_are(word):
    text = f"FINDINGS: Clear.\n{word.upper()}: Normal here.\n{word.capitalize()}: Fine."
    found = parse_report(text)
    assert found.findings == " ".join(text.removeprefix("FINDINGS: ").split())
    assert found.misspelt == ()


def test_the_nearest_header_is_meant():
    known = ["findings", "finding", "impression", "indication", "comparison"]
    for word, meant in {
        "fidnings": "findings",
        "findins": "findings",
        "impresson": "impression",
        "imrpession": "impression",
        "comparision": "comparison",
        "indicatons": "indication",
        "medication": None,
        "finish": None,
        "impressive": "impression",
    }.items():
        assert meant_header(word, known) == meant, word


def test_a_misspelt_header_is_noted():
    log = ConversionLog()
    fields, extra = text_fields(parse_report("FIDNINGS: Clear.\nIMPRESSON: Normal."), "s1", log)
    assert (fields["findings"], fields["impression"]) == ("Clear.", "Normal.")
    assert extra["misspelt_headers"] == "FIDNINGS; IMPRESSON"
    assert log.noted == {"header_misspelt: FIDNINGS": ["s1"], "header_misspelt: IMPRESSON": ["s1"]}


@pytest.mark.parametrize(
    "mark",
    [
        "ADDENDUM:",
        "Addendum:",
        "ADDENDUM",
        "Addendum (Dr. A):",
        "**ADDENDUM**",
        "*** ADDENDUM ***",
        "[ADDENDUM]",
        "ADDENDUM #2:",
        "ADDENDUM by Dr. A on 1/2:",
        "FINAL ADDENDUM",
        "ADDENDED REPORT:",
        "AMENDMENT:",
        "Amendment:",
        "AMENDED REPORT",
        "CORRECTION:",
        "CORRECTED REPORT:",
        "ERRATUM:",
        "REVISED REPORT:",
    ],
)
def test_what_is_added_later_is_an_addendum(mark):
    found = parse_report(f"FINDINGS: Right.\nIMPRESSION: Fine.\n\n{mark}\n The nodule is new.")
    assert (found.findings, found.impression) == ("Right.", "Fine.")
    assert found.addenda == ("The nodule is new.",)


@pytest.mark.parametrize(
    "text",
    [
        "Status post\ncorrection of scoliosis.",
        "Status post surgical\ncorrection\nof the spine.",
        "Addendum to the left clavicle is seen.",
        "Amendments of the study are none.",
    ],
)
def test_the_same_words_in_sentences_are_none(text):
    found = parse_report(f"FINDINGS: Clear. {text}")
    assert found.findings == f"Clear. {' '.join(text.split())}"
    assert found.addenda == ()


def test_an_addendum_above_the_report_with_no_mark_between():
    found = parse_report(
        "ADDENDUM: Dr. A was told.\n\nEXAM: CHEST\n\nFINDINGS: Clear.\n\nIMPRESSION: Normal."
    )
    assert (found.findings, found.impression) == ("Clear.", "Normal.")
    assert found.addenda == ("Dr. A was told.",)


@pytest.mark.parametrize(
    "rule", ["_" * 78, "-----", "======", "* * * * *", "_ _ _ _ _", "----- -----", "~~~~~~~~"]
)
def test_a_wet_read_keeps_no_rule_lines(rule):
    found = parse_report(
        f"WET READ VERSION #1 ___ ___ 8:03 PM\n Opacity.\n {rule}\n\n"
        f" FINAL REPORT\n FINDINGS: Clear.\n{rule}\nNo mass."
    )
    assert found.wet_read == "Opacity."
    assert found.findings is not None and rule not in found.findings
    assert found.findings.startswith("Clear.")


def test_marks_of_de_identification_are_no_rule():
    found = parse_report("FINDINGS: Seen on\n___ ___ ___\nand clear.")
    assert found.findings == "Seen on ___ ___ ___ and clear."


def test_a_joint_section_is_marked():
    log = ConversionLog()
    for header in ("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS AND IMPRESION"):
        _, extra = text_fields(parse_report(f"{header}: Clear. Normal."), "s", log)
        assert extra["joint_section"] == "findings and impression"
    _, extra = text_fields(parse_report("FINDINGS: Clear.\nIMPRESSION: Normal."), "s", log)
    assert "joint_section" not in extra


def test_sections_that_say_that_there_is_none_are_none():
    report = parse_report("INDICATION: N/A\nCOMPARISON: None\nFINDINGS: NA\nIMPRESSION: None.")
    fields, extra = text_fields(report, "s", ConversionLog())
    assert fields["indication"] is fields["findings"] is None
    assert (fields["comparison"], fields["impression"]) == ("None", "None.")
    assert extra["no_findings_reason"] == "findings_empty"


# Texts that cost the square of their length where a pattern looks ahead from each place.
COSTLY = [
    *((parse_report, piece) for piece in ("\n", " ", "a", "IMPRESSON:\n")),
    *((remove_marks, piece) for piece in ("\n", "a", "X", ",")),
    (image_sentences, "ct "),
    (without_prior_comparisons, "prior "),
    *((lambda text: label_reports([text]), piece) for piece in ("\n", " ")),
]


def test_a_hundred_thousand_of_anything_is_read_in_time_that_grows_with_its_length():
    """What takes the square of the length takes half a minute of the processor for one of these."""
    before = time.process_time()
    for read, piece in COSTLY:
        read(piece * (100_000 // len(piece)))
    assert time.process_time() - before < 20
