"""PadChest: Spanish text, lists of labels as text, several images a study."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, Study
from llava_rad.data.padchest import read

REPORT = "sin derrame pleural . aumento de densidad en el lóbulo inferior izquierdo"
COLUMNS = (
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Report",
    "MethodLabel",
    "Labels",
)
ROWS = [
    ("1_l.png", "0", "20140915", "s2", "p1", "1930.0", "F", "LATERAL", "L", REPORT),
    ("1_pa.png", "0", "20140915", "s2", "p1", "1930.0", "F", "POSTEROANTERIOR", "PA", REPORT),
    ("2.png", "3", "20120101", "s9", "p1", "1930.0", "F", "", "AP_horizontal", "normal"),
    ("3.png", "3", "20120101", "s3", "p2", "", "O", "", "PA", ""),
    ("4.png", "3", "20120101", "s4", "p3", "1930", "M", "", "EXCLUDE", "normal"),
    ("5.png", "3", "20120101", "s5", "", "1930", "M", "", "PA", "normal"),
    ("6.png", "3", "20120101", "s6", "p6", "1930", "M", "", "PA", "normal"),
]


@pytest.fixture
def studies_and_log(tree: Callable[..., Path]) -> tuple[dict[str, Study], ConversionLog]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, row in enumerate(ROWS):
        labels = "['normal', ' pleural effusion']" if number < 2 else "[broken"
        writer.writerow((number, *row[:9], "Manual review", row[9], "Physician", labels))
    files = {f"{row[1]}/{row[0]}": "" for row in ROWS[:5]}
    root = tree({**files, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": text.getvalue()})
    log = ConversionLog()
    return {study.study_id: study for study in read(root, log)}, log


def test_spanish_text_and_padded_labels_are_kept_right(
    studies_and_log: tuple[dict[str, Study], ConversionLog],
) -> None:
    """Case C40."""
    study = studies_and_log[0]["s2"]
    assert study.findings == REPORT
    assert study.language == "es"
    assert study.labels == {"normal": 1.0, "pleural effusion": 1.0}


def test_studies(studies_and_log: tuple[dict[str, Study], ConversionLog]) -> None:
    studies, log = studies_and_log
    study = studies["s2"]
    assert [(i.view, i.view_position) for i in study.images] == [
        ("frontal", "PA"),
        ("lateral", "L"),
    ]
    assert (study.sex, study.age, study.split) == ("F", 84, None)
    assert study.prior is not None and study.prior.study_id == "s9"
    assert (studies["s3"].sex, studies["s3"].age, studies["s3"].findings) == (None, None, None)
    assert set(studies) == {"s2", "s9", "s3"}
    assert log.left_out["projection_excluded"] == ["4.png"]
    assert log.left_out["image_missing"] == ["6.png"]
    assert len(log.left_out["no PatientID"]) == 1
    assert log.noted["labels_unreadable"] == ["s9", "s3"]
    assert log.noted["no_text"] == ["s3"]
