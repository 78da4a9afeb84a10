"""PadChest-GR: sentences with the boxes of one or two readers, in two languages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_rad.boxes import Box
from llava_rad.data import ConversionLog
from llava_rad.data.padchest_gr import read
from llava_rad.errors import ConfigError, DataError
from llava_rad.grounded_text import ground_text, read_grounded

MASTER = (
    "StudyID,ImageID,PatientID,split,PatientAge,PatientSex_DICOM,label\n"
    "s1,a.png,p1,train,71,M,nodule\ns1,a.png,p1,train,71,M,effusion\ns2,b.png,p2,test,50,F,Normal\n"
    "s3,c.png,p3,validation,,,Normal\n"
)


def finding(en: str, es: str, boxes: Any = (), extra: Any = (), **more: Any) -> dict[str, Any]:
    abnormal = bool(boxes)
    known = {"labels": ["nodule"] if abnormal else [], "locations": [], "progression": None}
    values = {"sentence_en": en, "sentence_es": es, "abnormal": abnormal, "boxes": [*boxes]}
    return {**known, **values, "extra_boxes": [*extra], **more}


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    studies = [
        {
            "StudyID": "s1",
            "ImageID": "a.png",
            "PreviousStudyID": "s0",
            "PreviousImageID": "z.png",
            "findings": [
                finding(
                    "Nodule in the right lung",
                    "Nódulo derecho.",
                    [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.1, 0.4]],
                    [[0.1, 0.2, 0.35, 0.4]],
                    progression="stable",
                ),
                finding("No pleural effusion.", "Sin derrame."),
            ],
        },
        {"StudyID": "s2", "ImageID": "b.png", "findings": []},
        {"StudyID": "s3", "ImageID": "c.png", "findings": []},
        {"StudyID": "s4", "ImageID": "d.png", "findings": []},
    ]
    return tree(
        {
            "grounded_reports_20240819.json": json.dumps(studies),
            "master_table.csv": MASTER,
            "Padchest_GR_files/PadChest_GR/a.png": "",
            "b.png": "",
            "PadChest_GR_progression_prior_studies/z.png": "",
        }
    )


def test_the_public_layout(root: Path) -> None:
    log = ConversionLog()
    first, second = read(root, log)
    assert (first.study_id, first.patient_id, first.split) == ("s1", "p1", "train")
    assert (first.sex, first.age, first.language) == ("M", 71, "en")
    assert first.findings == "Nodule in the right lung. No pleural effusion."
    assert first.labels == {"nodule": 1.0} and first.extra == {"progression": "stable"}
    boxes = first.images[0].boxes
    assert [(b.box, b.reader) for b in boxes] == [
        (Box(0.1, 0.2, 0.3, 0.4), "first"),
        (Box(0.1, 0.2, 0.35, 0.4), "second"),
    ]
    assert {b.sentence for b in boxes} == {"Nodule in the right lung."}
    assert first.prior is not None and first.prior.study_id == "s0"
    assert first.prior.images[0].path.endswith("prior_studies/z.png")
    assert (second.split, second.findings) == ("test", None)
    assert log.left_out["image_missing"] == ["c.png"]
    assert log.left_out["not_in_master_table"] == ["s4"] and len(log.left_out["bad_box"]) == 1
    assert log.noted == {"no_text": ["s2"]}


def test_its_text_becomes_a_grounded_one_and_back(root: Path) -> None:
    (first, _) = read(root, ConversionLog(), language="es")
    assert first.findings == "Nódulo derecho. Sin derrame." and first.language == "es"
    boxes = [(b.sentence or "", b.box) for b in first.images[0].boxes]
    written = read_grounded(ground_text(first.findings, boxes), strict=True)
    assert written.text == first.findings
    assert [len(phrase.boxes) for phrase in written.phrases] == [2, 0]


def test_what_is_no_label_and_no_box_is_left_out(root: Path) -> None:
    edges = [[0, 0, 10**400, 1], ["a", 0, 1, 1], "abcd", [0.1, 0.1, 0.2]]
    said = finding("Nodule.", "Nódulo.", edges, labels=["nodule", None, "", "N/A"])
    content = [{"StudyID": "s1", "ImageID": "a.png", "findings": [said]}]
    (root / "grounded_reports_20240819.json").write_text(json.dumps(content))
    log = ConversionLog()
    (study,) = read(root, log)
    assert study.labels == {"nodule": 1.0} and study.images[0].boxes == ()
    assert len(log.left_out["bad_box"]) == 4


def test_wrong_options_and_files_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="language is 'fr'"):
        list(read(root, ConversionLog(), language="fr"))
    file = root / "grounded_reports_20240819.json"
    file.write_text('[{"StudyID": "s1", "ImageID": 7}]')
    with pytest.raises(DataError, match="ImageID is 7") as error:
        list(read(root, ConversionLog()))
    assert str(error.value.where).endswith("study 1")
    file.write_text('["s1"]')
    with pytest.raises(DataError, match="study 1: it is 's1'"):
        list(read(root, ConversionLog()))
    file.write_text(json.dumps([{"StudyID": "s1", "ImageID": "a.png", "findings": ["Nodule"]}]))
    with pytest.raises(DataError, match="study 1: a finding is 'Nodule'"):
        list(read(root, ConversionLog()))
    file.unlink()
    with pytest.raises(DataError, match="no grounded_reports"):
        list(read(root, ConversionLog()))
