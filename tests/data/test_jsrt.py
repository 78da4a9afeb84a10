"""JSRT in its public layout, as a subset, and the real folder."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.jsrt import STRUCTURES, read
from llava_rad.data.template import TEMPLATE_NAME
from llava_rad.errors import DataError

NODULES = (
    "JPCLN001.IMG\t5\t15\t53\tMale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer\n"
    "JPCLN002.IMG\t5\t30\t?\tFemale\t1614\t1090\tbenign\tl.upper lobe(S5)\tpulmonary hematoma\n\n"
)
NORMAL = "JPCNN001.IMG\t30\tFemale\tnon-nodule\nJPCNN002.IMG\t62\tMale\tnon-nodule\n"


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    return tree(
        {
            "Clinical/CLNDAT_EN.txt": "",
            "CLNDAT_EN.txt": NODULES,
            "CNNDAT_EN.TXT": NORMAL,
            "Nodule154images/JPCLN001.png": "",
            "Nodule154images/JPCLN002.IMG": "",
            "NonNodule93images/JPCNN001.dcm": "",
            "NonNodule93images/JPCNN002.png": "",
            "scratch/fold2/masks/left lung/JPCLN001.gif": "",
            "scratch/fold2/masks/heart/JPCLN001.gif": "",
            "scratch/fold1/masks/right clavicle/JPCNN002.gif": "",
        }
    )


def test_the_public_layout(root: Path) -> None:
    log = ConversionLog()
    first, second, third = read(root, log)
    assert (first.study_id, first.patient_id, first.split) == ("JPCLN001", "JPCLN001", None)
    assert (first.sex, first.age, first.labels) == ("M", 53, {"Nodule": 1.0})
    (image,) = first.images
    assert (image.path, image.view) == (str(root / "Nodule154images/JPCLN001.png"), "frontal")
    assert image.masks == {
        "left_lung": str(root / "scratch/fold2/masks/left lung/JPCLN001.gif"),
        "heart": str(root / "scratch/fold2/masks/heart/JPCLN001.gif"),
    }
    assert first.extra == {
        "nodule_mm": "15",
        "subtlety_1_5": "5",
        "nodule_x": "1634",
        "nodule_y": "692",
        "nature": "malignant",
        "location": "l.upper lobe",
        "diagnosis": "lung cancer",
        "findings_from": TEMPLATE_NAME,
    }
    assert first.findings is not None and "nodule" in first.findings
    (box,) = image.boxes
    # 15 mm of 2048 pixels of 0.175 mm, around x 1634 and y 692.
    assert (box.finding, box.sentence) == ("Nodule", first.findings)
    assert box.box.x_max - box.box.x_min == pytest.approx(15 / 358.4)
    assert box.box.x_min + box.box.x_max == pytest.approx(2 * 1634 / 2048)
    assert box.box.y_min + box.box.y_max == pytest.approx(2 * 692 / 2048)
    assert "left upper lobe" in first.findings
    assert (second.study_id, second.sex, second.labels) == ("JPCNN001", "F", {"Nodule": 0.0})
    assert second.extra == {"nature": "non-nodule", "findings_from": TEMPLATE_NAME}
    assert second.findings is not None and second.findings.lower().find("no ") >= 0
    assert list(third.images[0].masks) == ["right_clavicle"]
    assert log.left_out == {"image_missing": ["JPCLN002"]}


def test_damaged_and_missing_tables_are_named(root: Path) -> None:
    (root / "CNNDAT_EN.TXT").write_text("JPCNN001.IMG\t30\n")
    with pytest.raises(DataError, match="the line has 2 columns, 4 were expected") as error:
        list(read(root, ConversionLog()))
    assert str(error.value.where).endswith("CNNDAT_EN.TXT:1")
    (root / "CLNDAT_EN.txt").unlink()
    with pytest.raises(DataError, match="CLNDAT_EN"):
        list(read(root, ConversionLog()))


def test_the_subset(tree: Callable[..., Path]) -> None:
    root = tree(
        {
            "metadata.csv": "image,split,patient,labels,sex,age,view,nodule_mm,subtlety_1_5,"
            "nodule_x,nodule_y,nature,location,diagnosis\n"
            "images/JPCLN003.jpg,val,P3,Nodule,F,63,PA,35,5,244.3,83.8,malignant,r.lobe,cancer\n"
            "images/JPCLN004.jpg,val,P4,Shadow,F,63,PA,,,,,,,\n",
            "images/JPCLN003.jpg": "",
            "images/JPCLN004.jpg": "",
            "masks/JPCLN003_heart.png": "",
        }
    )
    log = ConversionLog()
    (study,) = read(root, log)
    assert (study.patient_id, study.split) == ("P3", "validation")
    assert study.images[0].masks == {"heart": str(root / "masks/JPCLN003_heart.png")}
    assert (study.extra["nodule_x"], study.extra["location"]) == ("244.3", "r.lobe")
    assert log.left_out == {
        "unknown_label": ["JPCLN004"],
        "boxes_without_size": ["JPCLN003"],
    }


def test_the_real_folder(shared_data: Path) -> None:
    log = ConversionLog()
    studies = list(read(shared_data / "jsrt", log))
    check_studies(studies)
    assert Counter(study.split for study in studies) == {"train": 120, "validation": 24, "test": 36}
    assert sum(study.labels["Nodule"] or 0 for study in studies) == 110
    assert all(set(study.images[0].masks) == set(STRUCTURES) for study in studies)
    boxes = [box for study in studies for box in study.images[0].boxes]
    assert len(boxes) == 110 and all(box.sentence for box in boxes)
    assert not log.left_out
