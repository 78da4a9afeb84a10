"""The paediatric radiographs in their public layout, as a subset, and the real folder."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.kermany import read
from llava_rad.errors import DataError


def test_the_public_layout(tree: Callable[..., Path]) -> None:
    files = [
        "train/NORMAL/IM-0117-0001.jpeg",
        "train/NORMAL/IM-0117-0001-0002.jpeg",
        "train/NORMAL/NORMAL2-IM-0117-0001.jpeg",
        "train/PNEUMONIA/person7_bacteria_20.jpeg",
        "train/PNEUMONIA/person7_virus_3.jpeg",
        "train/PNEUMONIA/odd.jpeg",
        "train/PNEUMONIA/.DS_Store",
        "val/PNEUMONIA/person8_virus_1.jpeg",
        "test/PNEUMONIA/person7_virus_9.jpeg",
    ]
    log = ConversionLog()
    studies = {s.study_id: s for s in read(tree(dict.fromkeys(files, "")), log)}
    check_studies(studies.values())
    assert {name: (s.split, s.patient_id) for name, s in studies.items()} == {
        "IM-0117-0001": ("train", "IM-0117"),
        "IM-0117-0001-0002": ("train", "IM-0117"),
        "NORMAL2-IM-0117-0001": ("train", "NORMAL2-IM-0117"),
        "person7_bacteria_20": ("train", "person7"),
        "person7_virus_3": ("train", "person7"),
        "odd": ("train", "odd"),
        "person8_virus_1": ("validation", "person8"),
        "test-person7_virus_9": ("test", "test-person7"),
    }
    assert studies["person7_virus_3"].labels == {
        "Pneumonia": 1.0,
        "bacterial": 0.0,
        "viral": 1.0,
        "No Finding": 0.0,
    }
    assert studies["IM-0117-0001"].labels["No Finding"] == 1
    assert studies["odd"].labels["bacterial"] is None and studies["odd"].labels["viral"] is None
    assert log.noted == {"unknown_name": ["odd"]}


def test_the_subset(tree: Callable[..., Path]) -> None:
    root = tree(
        {
            "metadata.csv": "image,split,patient,labels,sex,age,view,lung_mask\n"
            "images/a.jpg,train,P1,Pneumonia|viral,,,AP,masks/a.png\n"
            "images/b.jpg,test,P2,No Finding,,,AP,masks/gone.png\n"
            "images/c.jpg,test,P3,Fracture,,,AP,\n"
            "images/d.jpg,test,P4,,,,AP,\n",
            "images/a.jpg": "",
            "images/b.jpg": "",
            "images/c.jpg": "",
            "masks/a.png": "",
        }
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert first.images[0].masks == {"lungs": str(root / "masks/a.png")}
    assert (first.images[0].view, first.labels["viral"], first.labels["bacterial"]) == (
        "frontal",
        1.0,
        0.0,
    )
    assert second.images[0].masks == {} and second.split == "test"
    assert log.left_out == {"unknown_label": ["c"], "no_label": ["d"]}


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither metadata\.csv nor images"):
        list(read(tmp_path, ConversionLog()))


def test_the_real_folder(shared_data: Path) -> None:
    log = ConversionLog()
    studies = list(read(shared_data / "paediatric", log))
    check_studies(studies)
    assert Counter(s.split for s in studies) == {"train": 441, "validation": 60, "test": 90}
    assert all("lungs" in study.images[0].masks for study in studies)
    assert sum(study.labels["bacterial"] or 0 for study in studies) == 193
    assert not log.left_out
