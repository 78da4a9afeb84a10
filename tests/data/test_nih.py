"""NIH ChestX-ray14 in its public layout and as the real subset."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.boxes import Box
from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.nih import read
from llava_rad.errors import DataError

ENTRIES = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,57,M,PA,2682,2749,0.143,0.143,\n"
    "00000001_001.png,No Finding,1,1,58,M,AP,2682,2749,0.143,0.143,\n"
    "00000002_000.png,Hernia,0,2,411,F,PA,2500,2048,0.168,0.168,\n"
    "00000003_000.png,Unheard,0,3,40,F,PA,2500,2048,0.168,0.168,\n"
    "00000004_000.png,Mass,0,4,40,F,PA,2500,2048,0.168,0.168,\n"
    "00000005_000.png,Mass,0,5,40,F,PA,2500,2048,0.168,0.168,\n"
)


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    return tree(
        {
            "Data_Entry_2017.csv": ENTRIES,
            "train_val_list.txt": "00000001_000.png\n00000001_001.png\n00000003_000.png\n"
            "00000004_000.png\n",
            "test_list.txt": "00000002_000.png",
            "images_001/images/00000001_000.png": "",
            "images_001/images/00000001_001.png": "",
            "images_002/images/00000002_000.png": "",
            "images_002/images/00000003_000.png": "",
        }
    )


def test_the_public_layout(root: Path) -> None:
    log = ConversionLog()
    first, second, third = read(root, log)
    assert (first.study_id, first.patient_id, first.split) == ("00000001_000", "1", "train")
    assert first.images[0].path == str(root / "images_001/images/00000001_000.png")
    assert first.images[0].view == "frontal" and second.images[0].view_position == "AP"
    assert {name for name, value in first.labels.items() if value} == {"Cardiomegaly", "Emphysema"}
    assert len(first.labels) == 15
    assert (first.sex, first.age, first.extra["follow_up"]) == ("M", 57, "0")
    assert second.labels["No Finding"] == 1 and second.prior is None
    assert (third.split, third.age) == ("test", None)
    assert log.left_out == {
        "unknown_label": ["00000003_000"],
        "image_missing": ["00000004_000"],
        "in_no_official_split": ["00000005_000.png"],
    }
    assert log.noted == {"no_usable_age": ["00000002_000"]}


def test_templated_text_says_what_it_is_and_can_be_left_out(root: Path) -> None:
    study = next(read(root, ConversionLog()))
    assert study.findings is not None and study.extra["findings_from"] == "template 2"
    plain = next(read(root, ConversionLog(), template_findings=False))
    assert plain.findings is None and "findings_from" not in plain.extra


@pytest.mark.parametrize("missing", ["train_val_list.txt", "Data_Entry_2017.csv"])
def test_missing_tables_are_named(root: Path, missing: str) -> None:
    (root / missing).unlink()
    with pytest.raises(DataError, match=missing.split(".")[0]):
        list(read(root, ConversionLog()))


def test_the_real_subset(shared_data: Path) -> None:
    log = ConversionLog()
    studies = list(read(shared_data / "nih", log))
    check_studies(studies)
    assert len(studies) == 882
    assert Counter(study.split for study in studies) == {
        "train": 642,
        "validation": 112,
        "test": 128,
    }
    assert sum(bool(study.labels["No Finding"]) for study in studies) == 437
    assert sum(bool(study.labels["Pneumonia"]) for study in studies) == 445
    assert all(study.findings and study.images[0].view == "frontal" for study in studies)
    assert log.left_out == {}
    # The wording varies: not one sentence for all normal images.
    assert len({study.findings for study in studies if study.labels["No Finding"]}) > 20


def test_the_list_of_boxes(root: Path) -> None:
    (root / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_000.png,Cardiomegaly,256.0,512.0,512.0,256.0,,,\n"
        "00000001_000.png,Infiltrate,0,0,1024,1024,,,\n"
        "00000002_000.png,Hernia,1000,0,100,10,,,\n"
    )
    log = ConversionLog()
    first, _, third = read(root, log)
    heart, infiltration = first.images[0].boxes
    assert (heart.finding, heart.box) == ("Cardiomegaly", Box(0.25, 0.5, 0.75, 0.75))
    assert heart.sentence is not None and heart.sentence in (first.findings or "")
    assert (infiltration.finding, infiltration.sentence) == ("Infiltration", None)
    assert third.images[0].boxes == () and log.left_out["bad_box"] == ["00000002_000"]
