"""MIMIC-CXR-JPG's layout."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, Study, check_studies
from llava_rad.data.mimic_cxr import read
from llava_rad.errors import DataError

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,"
    "Rows,Columns,StudyDate,StudyTime\n"
)
REPORT = " FINAL REPORT\n INDICATION:  ___F with cough\n\n FINDINGS:  Clear. Told to ___.\n"

# subject, study, dicom, view, date, time, split
IMAGES = [
    ("10000001", "50000002", "aaa", "LATERAL", "21500101", "93015.25", "train"),
    ("10000001", "50000002", "bbb", "PA", "21500101", "93015.25", "train"),
    ("10000001", "50000001", "ccc", "AP", "21500301", "80000.0", "train"),
    ("10000001", "50000003", "ddd", "AP", "21500301", "90000.0", "train"),
    ("10000001", "50000004", "eee", "", "", "", "train"),
    ("11000001", "50000005", "fff", "PA", "21700101", "1.0", "validate"),
    ("12000001", "50000006", "ggg", "LL", "21800101", "1.0", "test"),
]


def study_path(subject: str, study: str) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}"


@pytest.fixture
def files() -> dict[str, str | bytes]:
    metadata = METADATA + "".join(
        f"{dicom},{subject},{study},CHEST,{view},10,10,{date},{time}\n"
        for subject, study, dicom, view, date, time, _ in IMAGES
    )
    split = "dicom_id,study_id,subject_id,split\n" + "".join(
        f"{dicom},{study},{subject},{name}\n" for subject, study, dicom, _, _, _, name in IMAGES
    )
    names = (
        "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
        "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,"
        "Pneumothorax,Support Devices"
    )
    labels = f"subject_id,study_id,{names}\n10000001,50000002,1.0,-1.0,0.0,,,,,,,,,,,\n"
    found: dict[str, str | bytes] = {
        "mimic-cxr-2.0.0-metadata.csv": metadata,
        "mimic-cxr-2.0.0-split.csv.gz": gzip.compress(split.encode()),
        "mimic-cxr-2.0.0-chexpert.csv": labels,
    }
    for subject, study, dicom, *_ in IMAGES:
        found[f"{study_path(subject, study)}/{dicom}.jpg"] = b"image"
        found[f"{study_path(subject, study)}.txt"] = REPORT
    return found


def by_id(studies: list[Study]) -> dict[str, Study]:
    check_studies(studies)
    return {study.study_id: study for study in studies}


def test_studies(tree: Callable[..., Path], files: dict) -> None:
    log = ConversionLog()
    root = tree(files)
    studies = by_id(list(read(root, log)))
    study = studies["s50000002"]
    assert [(image.view, image.view_position) for image in study.images] == [
        ("frontal", "PA"),
        ("lateral", "LATERAL"),
    ]
    assert study.images[0].path == str(root / study_path("10000001", "50000002") / "bbb.jpg")
    assert (study.patient_id, study.split, study.source) == ("p10000001", "train", "mimic-cxr")
    assert (study.findings, study.indication) == ("Clear.", "F with cough")
    assert study.extra["findings_original"] == "Clear. Told to ___."
    assert study.labels["Atelectasis"] == 1 and study.labels["Cardiomegaly"] == -1
    assert study.labels["Consolidation"] == 0 and study.labels["Edema"] is None
    assert studies["s50000005"].split == "validation"
    assert studies["s50000006"].images[0].view == "lateral"
    assert log.left_out == {}


def test_the_prior_is_chosen_by_date(tree: Callable[..., Path], files: dict) -> None:
    """Study ids are random: the lower id is the later study here (case C44)."""
    log = ConversionLog()
    studies = by_id(list(read(tree(files), log)))
    prior = {name: study.prior.study_id if study.prior else None for name, study in studies.items()}
    assert prior["s50000001"] == "s50000002"
    assert prior["s50000002"] is None
    # The same date: the time decides.
    assert prior["s50000003"] == "s50000001"
    # No date: no prior, and counted.
    assert prior["s50000004"] is None
    assert log.noted["no_prior_date_missing"] == ["s50000004"]
    first = studies["s50000001"].prior
    assert first is not None and first.findings == "Clear."
    assert [image.view for image in first.images] == ["frontal", "lateral"]


def test_marks_may_be_kept(tree: Callable[..., Path], files: dict) -> None:
    studies = by_id(list(read(tree(files), ConversionLog(), keep_marks=True)))
    assert studies["s50000002"].findings == "Clear. Told to ___."
    assert studies["s50000002"].indication == "___F with cough"


def test_broken_rows_are_listed(tree: Callable[..., Path], files: dict) -> None:
    files.pop(f"{study_path('10000001', '50000002')}/aaa.jpg")
    files.pop(f"{study_path('11000001', '50000005')}.txt")
    files["mimic-cxr-2.0.0-metadata.csv"] += "zzz,10000001,50000001,C,AP,1,1,21500301,8\n"
    files["mimic-cxr-2.0.0-metadata.csv"] += "yyy,,50000001,C,AP,1,1,21500301,8\n"
    log = ConversionLog()
    studies = by_id(list(read(tree(files), log)))
    assert len(studies["s50000002"].images) == 1
    assert studies["s50000005"].findings is None
    assert log.left_out == {
        "image_missing": ["aaa"],
        "in_no_official_split": ["zzz"],
        "no subject_id": ["mimic-cxr-2.0.0-metadata.csv:10"],
    }
    assert log.noted["report_missing"] == ["s50000005"]


def test_without_report_texts(tree: Callable[..., Path], files: dict) -> None:
    """MIMIC-CXR-JPG alone: an error that says where the texts come from, never no studies (C46)."""
    texts = {name: content for name, content in files.items() if name.endswith(".txt")}
    root = tree({name: content for name, content in files.items() if name not in texts})
    with pytest.raises(DataError) as caught:
        list(read(root, ConversionLog()))
    assert caught.value.kind == "no_reports"
    assert f"{root}/files/p*/p*/s*.txt" in str(caught.value)
    assert "mimic-cxr-reports.zip" in str(caught.value)
    # Elsewhere is fine when it is named.
    elsewhere = tree({f"../texts/{name}": content for name, content in texts.items()})
    reports = str(elsewhere.parent / "texts" / "files")
    assert len(list(read(root, ConversionLog(), reports=reports))) == 6


def test_a_missing_table_is_named(tree: Callable[..., Path], files: dict) -> None:
    files.pop("mimic-cxr-2.0.0-split.csv.gz")
    with pytest.raises(DataError, match=r"split\.csv"):
        list(read(tree(files), ConversionLog()))


def test_a_missing_column_is_named(tree: Callable[..., Path], files: dict) -> None:
    files["mimic-cxr-2.0.0-metadata.csv"] = "dicom_id,subject_id,study_id\n"
    with pytest.raises(DataError, match="'ViewPosition'"):
        list(read(tree(files), ConversionLog()))
