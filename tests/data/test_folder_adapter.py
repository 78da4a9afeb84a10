"""A user's own folder of images and text files."""

from collections.abc import Callable
from pathlib import Path

from llava_rad.data import ConversionLog
from llava_rad.data.folder import read

FILES = {
    "train/ana_1.png": "",
    "train/ana_1.txt": "Findings: Clear.\nImpression: Normal.",
    "train/ana_2.png": "",
    "train/ana_2.txt": "The lungs are clear. No effusion.",
    "test/case7/front.dcm": "",
    "test/case7/side.dcm": "",
    "test/case7/report.txt": "Indication: ___ cough. Findings: A nodule.",
    "other/x.png": "",
    "other/x.jpg": "",
    "lone.txt": "Findings: Lost.",
}


def test_studies_texts_and_splits(tree: Callable[..., Path]) -> None:
    root = tree(FILES)
    log = ConversionLog()
    studies = {study.study_id: study for study in read(root, log)}
    assert set(studies) == {
        "train/ana_1",
        "train/ana_2",
        "test/case7",
        "other/x.png",
        "other/x.jpg",
    }
    first = studies["train/ana_1"]
    assert (first.findings, first.impression, first.split) == ("Clear.", "Normal.", "train")
    assert first.images[0].path == str(root / "train/ana_1.png")
    # A text without headers is the findings, unless headers are said to be there.
    assert studies["train/ana_2"].findings == "The lungs are clear. No effusion."
    case = studies["test/case7"]
    assert [Path(image.path).name for image in case.images] == ["front.dcm", "side.dcm"]
    assert (case.findings, case.indication, case.split) == ("A nodule.", "___ cough.", "test")
    assert studies["other/x.png"].split is None
    assert log.left_out == {"text_without_image": ["lone.txt"]}
    assert sorted(log.noted["no_text_file"]) == ["other/x.jpg", "other/x.png"]


def test_headers_are_required_when_asked_for(tree: Callable[..., Path]) -> None:
    studies = {s.study_id: s for s in read(tree(FILES), ConversionLog(), text_headers=True)}
    second = studies["train/ana_2"]
    assert second.findings is None
    assert second.extra["no_findings_reason"] == "no_findings_header"
    assert second.extra["paragraph"] == "The lungs are clear. No effusion."


def test_patients_from_the_path(tree: Callable[..., Path]) -> None:
    log = ConversionLog()
    studies = list(read(tree(FILES), log, patient=r"/(ana|case\d+)"))
    assert {study.patient_id for study in studies} == {"ana", "case7"}
    assert sorted(log.left_out["path_names_no_patient"]) == ["other/x.jpg", "other/x.png"]


def test_a_text_that_is_not_utf8_is_named_and_ends_nothing(tree: Callable[..., Path]) -> None:
    files = {
        "a.png": "",
        "a.txt": "Clear, ñ.".encode("latin-1"),
        "b.png": "",
        "b.txt": "The lungs are clear.",
    }
    log = ConversionLog()
    studies = {study.study_id: study for study in read(tree(files), log)}
    assert studies["a"].extra["no_findings_reason"] == "text_unreadable"
    assert studies["b"].findings == "The lungs are clear."
    assert log.left_out == {"text_unreadable": ["a.txt"]}
