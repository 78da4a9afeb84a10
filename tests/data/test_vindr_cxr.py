"""VinDr-CXR: three readers in training, a consensus in the test."""

from collections.abc import Callable
from pathlib import Path

from llava_rad.boxes import Box
from llava_rad.data import ConversionLog, FindingBox
from llava_rad.data.finding_box import of_one_reader
from llava_rad.data.vindr_cxr import read


def test_majority_in_training_and_consensus_in_the_test(tree: Callable[..., Path]) -> None:
    root = tree(
        {
            "annotations/image_labels_train.csv": (
                "image_id,rad_id,Cardiomegaly,Pleural effusion,No finding\n"
                "aa,R1,1,0,0\naa,R2,1,1,0\naa,R3,0,0,1\nbb,R1,0,0,1\n"
            ),
            "annotations/image_labels_test.csv": (
                "image_id,Cardiomegaly,Pleural effusion,No finding\ncc,0,1,0\n"
            ),
            "train/aa.dicom": "",
            "test/cc.png": "",
        }
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert (first.study_id, first.split, first.extra["readers"]) == ("aa", "train", "3")
    assert first.labels == {"Cardiomegaly": 1.0, "Pleural effusion": 0.0, "No finding": 0.0}
    assert first.images[0].path == str(root / "train/aa.dicom")
    assert first.images[0].view == "frontal"
    assert (second.split, second.labels["Pleural effusion"]) == ("test", 1.0)
    assert log.left_out == {"image_missing": ["bb"]}


BOXES = "x_min,y_min,x_max,y_max"


def test_boxes_keep_their_readers(tree: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    root = tree(
        {
            "annotations/image_labels_train.csv": "image_id,rad_id,Mass,No finding\naa,R1,1,0\n",
            "annotations/image_labels_test.csv": "image_id,Mass,No finding\ncc,1,0\ndd,1,0\n",
            "annotations/annotations_train.csv": (
                f"image_id,rad_id,class_name,{BOXES}\naa,R1,Mass,10,20,30,60\n"
                "aa,R2,Mass,10,20,35,60\naa,R2,Mass,10,20,350,60\naa,R3,No finding,,,,\n"
                "zz,R1,Mass,10,20,30,60\n"
            ),
            "annotations/annotations_test.csv": (
                f"image_id,class_name,{BOXES}\ncc,Mass,0,0,100,80\ndd,Mass,0,0,9,9\n"
            ),
            "train/aa.png": picture(80, 100),
            "test/cc.png": picture(80, 100),
            "test/dd.png": "",
        }
    )
    log = ConversionLog()
    first, second, third = read(root, log)
    assert [(b.finding, b.reader) for b in first.images[0].boxes] == [
        ("Mass", "R1"),
        ("Mass", "R2"),
    ]
    assert first.images[0].boxes[0].box == Box(0.1, 0.25, 0.3, 0.75)
    assert of_one_reader(first.images[0].boxes) == [first.images[0].boxes[0]]
    assert second.images[0].boxes == (FindingBox("Mass", Box(0, 0, 1, 1)),)
    assert third.images[0].boxes == ()
    assert log.left_out == {
        "bad_box": ["aa"],
        "boxes_without_size": ["dd"],
        "box_of_unlabelled_image": ["zz"],
    }


def test_the_layout_of_the_challenge(
    tree: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    root = tree(
        {
            "train.csv": (
                f"image_id,class_name,class_id,rad_id,{BOXES}\n"
                "aa,Mass,8,R1,10,20,30,60\naa,Mass,8,R2,10,20,30,60\naa,No finding,14,R3,,,,\n"
                "bb,No finding,14,R1,,,,\n"
            ),
            "train/aa.png": picture(80, 100),
            "train/bb.png": picture(80, 100),
        }
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert first.labels == {"Mass": 1.0, "No finding": 0.0} and len(first.images[0].boxes) == 2
    assert second.labels == {"Mass": 0.0, "No finding": 1.0} and second.images[0].boxes == ()
    assert first.extra["readers"] == "3" and not log.left_out
