"""CheXpert v1: studies of train.csv and valid.csv, and the two forms of the test's labels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog
from llava_rad.data.chexpert import read
from llava_rad.errors import DataError
from llava_rad.observations import OBSERVATIONS

HEADER = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS))


def row(path: str, head: str, **labels: str) -> str:
    cells = [labels.get(name.replace(" ", "_"), "") for name in OBSERVATIONS]
    return ",".join((path, head, *cells))


def tables(prefix: str) -> dict[str, str]:
    study = f"{prefix}/train/patient00002/study1"
    train = [
        HEADER,
        row(f"{study}/view2_lateral.jpg", "Female,87,Lateral,", Edema="-1.0", Pneumonia="1.0"),
        row(f"{study}/view1_frontal.jpg", "Female,87,Frontal,AP", Edema="-1.0", Pneumonia="1.0"),
        row(f"{prefix}/train/patient00003/study2/view1_frontal.jpg", "Unknown,0,Frontal,PA"),
        row(f"{prefix}/train/patient00004/study1/view1_frontal.jpg", "Male,1,Frontal,PA"),
    ]
    path = f"{prefix}/valid/patient64541/study1/view1_frontal.jpg"
    valid = [HEADER, row(path, "Male,73,Frontal,AP", Edema="0.0")]
    return {"train.csv": "\n".join(train) + "\n", "valid.csv": "\n".join(valid) + "\n"}


IMAGES = [
    "train/patient00002/study1/view1_frontal.jpg",
    "train/patient00002/study1/view2_lateral.jpg",
    "train/patient00003/study2/view1_frontal.jpg",
    "valid/patient64541/study1/view1_frontal.jpg",
]


def check(root: Path) -> None:
    log = ConversionLog()
    first, second, validation = read(root, log)
    assert [image.view for image in first.images] == ["frontal", "lateral"]
    assert [image.view_position for image in first.images] == ["AP", "Lateral"]
    assert (first.study_id, first.patient_id) == ("train/patient00002/study1", "patient00002")
    assert (first.split, first.sex, first.age) == ("train", "F", 87.0)
    assert first.labels["Edema"] == -1.0 and first.labels["Pneumonia"] == 1.0
    assert first.labels["Fracture"] is None
    assert (second.sex, second.age) == (None, None)
    assert (validation.split, validation.labels["Edema"]) == ("validation", 0.0)
    assert log.left_out == {
        "image_missing": ["train/patient00004/study1/view1_frontal.jpg"],
        "no_image": ["train/patient00004/study1"],
    }


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_both_sizes(tree: Callable[..., Path], prefix: str) -> None:
    check(tree(tables(prefix) | dict.fromkeys(IMAGES, "")))


def test_the_four_parts_of_the_full_set(tree: Callable[..., Path]) -> None:
    first, second = "CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0 batch 2 (train 1)"
    files = {f"{first}/{name}": text for name, text in tables("CheXpert-v1.0").items()}
    files |= {f"{second}/{path.removeprefix('train/')}": "" for path in IMAGES[:3]}
    check(tree({**files, f"{first}/{IMAGES[3]}": ""}))


@pytest.mark.parametrize(
    ("name", "column", "path"),
    [
        ("groundtruth.csv", "Study", "CheXpert-v1.0/test/patient64741/study1"),
        ("test_labels.csv", "Path", "test/patient64741/study1/view1_frontal.jpg"),
    ],
)
def test_labels_of_the_test(tree: Callable[..., Path], name: str, column: str, path: str) -> None:
    header = ",".join((column, *OBSERVATIONS))
    text = f"{header}\n{path},{','.join('0' * 13)},1\n"
    root = tree({name: text, "test/patient64741/study1/view1_frontal.jpg": ""})
    (study,) = read(root, ConversionLog())
    assert (study.split, study.patient_id) == ("test", "patient64741")
    assert [image.view for image in study.images] == ["frontal"]
    assert study.labels == {**dict.fromkeys(OBSERVATIONS, 0.0), OBSERVATIONS[-1]: 1.0}


def test_images_of_one_study_with_other_labels_are_noted(tree: Callable[..., Path]) -> None:
    files = tables("CheXpert-v1.0")
    files["train.csv"] = files["train.csv"].replace("Female,87,Lateral,,", "Female,87,Lateral,,1")
    log = ConversionLog()
    list(read(tree(files | dict.fromkeys(IMAGES, "")), log))
    assert log.noted == {"labels_of_images_differ": ["train/patient00002/study1"]}


def test_a_path_of_another_form_is_refused_by_line(tree: Callable[..., Path]) -> None:
    root = tree({"valid.csv": f"{HEADER}\n{row('a.jpg', 'Male,73,Frontal,AP')}\n"})
    with pytest.raises(DataError, match=r"Path is 'a\.jpg'") as caught:
        list(read(root, ConversionLog()))
    assert str(caught.value.where).endswith("valid.csv:2")
