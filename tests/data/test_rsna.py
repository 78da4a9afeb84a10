"""RSNA Pneumonia: a row a box, and texts that say no more than the labels."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.boxes import Box
from llava_rad.data import ConversionLog
from llava_rad.data.rsna import read
from llava_rad.data.template import TEMPLATE_NAME
from llava_rad.errors import DataError

LABELS = (
    "patientId,x,y,width,height,Target\n"
    "aa,256.0,512.0,128.0,256.0,1\naa,512,0,512,1024,1\n"
    "bb,,,,,0\ncc,,,,,0\ndd,1,1,5,5,1\nee,0,0,2000,10,1\n"
)
CLASSES = (
    "patientId,class\naa,Lung Opacity\nbb,Normal\ncc,No Lung Opacity / Not Normal\n"
    "ee,Lung Opacity\n"
)


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    files = {f"stage_2_train_images/{name}.dcm": "" for name in ("aa", "bb", "cc", "ee")}
    tables = {"stage_2_train_labels.csv": LABELS, "stage_2_detailed_class_info.csv": CLASSES}
    return tree(files | tables)


def test_the_public_layout(root: Path) -> None:
    log = ConversionLog()
    opacities, normal, other, wrong = read(root, log)
    assert [box.box for box in opacities.images[0].boxes] == [
        Box(0.25, 0.5, 0.375, 0.75),
        Box(0.5, 0.0, 1.0, 1.0),
    ]
    assert {box.sentence for box in opacities.images[0].boxes} == {opacities.findings}
    assert "pacities" in (opacities.findings or "")
    assert opacities.labels == {"Lung Opacity": 1.0, "No Finding": 0.0}
    assert opacities.extra == {"findings_from": TEMPLATE_NAME}
    assert normal.labels == {"Lung Opacity": 0.0, "No Finding": 1.0}
    assert normal.findings and normal.images[0].boxes == ()
    assert (other.findings, other.extra["no_findings_reason"]) == (None, "no_text")
    assert wrong.images[0].boxes == ()
    assert log.left_out == {"image_missing": ["dd"], "bad_box": ["ee"]}
    assert log.noted == {"patient_not_known": ["aa", "bb", "cc", "ee"]}


def test_patients_of_the_mapping_to_nih(root: Path) -> None:
    names = {"aa": "00013774_026.png", "bb": "00013774_001.png", "cc": "00000100_000.png"}
    entries = [{"subset_img_id": own, "img_id": nih} for own, nih in names.items()]
    mapping = root / "pneumonia-challenge-dataset-mappings_2018.json"
    mapping.write_text(json.dumps(entries))
    log = ConversionLog()
    studies = list(read(root, log))
    assert [study.patient_id for study in studies] == ["13774", "13774", "100", "ee"]
    assert studies[0].extra["nih_image"] == "00013774_026"
    assert log.noted == {"patient_not_known": ["ee"]}
    mapping.write_text(json.dumps([{"subset_img_id": "aa"}]))
    with pytest.raises(DataError, match="an entry is"):
        list(read(root, ConversionLog()))


def test_without_texts_and_classes(root: Path) -> None:
    (root / "stage_2_detailed_class_info.csv").unlink()
    first, second, *_ = read(root, ConversionLog(), template_findings=False)
    assert first.findings is None and first.images[0].boxes[0].sentence is None
    assert second.labels == {"Lung Opacity": 0.0}


def test_an_opacity_whose_box_cannot_be_read_is_one(root: Path) -> None:
    (root / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\naa,,,,,1\naa,1,2,3,x,1\nbb,1,2,3,4,0\n"
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert first.labels["Lung Opacity"] == 1.0 and "pacities" in (first.findings or "")
    assert first.images[0].boxes == () and log.left_out == {"bad_box": ["aa", "aa"]}
    assert second.labels["Lung Opacity"] == 0.0 and second.images[0].boxes == ()


def test_another_target_is_refused_by_line(root: Path) -> None:
    (root / "stage_2_train_labels.csv").write_text("patientId,x,y,width,height,Target\naa,,,,,2\n")
    with pytest.raises(DataError, match="Target is '2'") as error:
        list(read(root, ConversionLog()))
    assert str(error.value.where).endswith("labels.csv:2")
