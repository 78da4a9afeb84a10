"""VinDr-CXR: three readers in training, a consensus in the test."""

from collections.abc import Callable
from pathlib import Path

from llava_rad.data import ConversionLog
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
