"""SIIM-ACR: regions in rows of run lengths, patients of the headers, and the PNG repack."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.dicom_files import dicom_bytes

from llava_rad.data import ConversionLog, Identifiers
from llava_rad.data.mask_rows import MaskRows
from llava_rad.data.siim_acr import read
from llava_rad.errors import DataError

# The published header has a blank before its second column, and the cells one before their value.
RUNS = "ImageId, EncodedPixels\n1.2.1, 10 3 2 1\n1.2.2, -1\n1.2.1, 99 5\n1.2.3, -1\n1.2.5,\n"


@pytest.mark.parametrize("table", ["train-rle.csv", "stage_2_train.csv"])
def test_dicom_files(tree: Callable[..., Path], table: str) -> None:
    files: dict[str, str | bytes] = {table: RUNS, "dicom-images-train/7/8/1.2.5.dcm": "none"}
    for name, patient in (("1.2.1", "A"), ("1.2.2", "A"), ("1.2.9", "B")):
        said = {"PatientID": patient, "PatientSex": "F", "PatientAge": "028Y"}
        content = dicom_bytes(**said, ViewPosition="AP")
        files[f"dicom-images-train/7.{name}/8.{name}/{name}.dcm"] = content
    root = tree(files)
    log = ConversionLog()
    first, second, unmarked = read(root, log, Identifiers())
    assert first.labels == {"Pneumothorax": 1.0} and second.labels == {"Pneumothorax": 0.0}
    assert first.patient_id == second.patient_id and first.patient_id not in ("A", "1.2.1")
    assert (first.sex, first.age, first.split) == ("F", 28.0, None)
    assert (first.images[0].view, first.images[0].view_position) == ("frontal", "AP")
    assert unmarked.labels == {"Pneumothorax": None} and unmarked.images[0].masks == {}
    assert log.left_out == {"not_in_the_table": ["1.2.9"], "image_missing": ["1.2.3"]}
    assert log.noted == {"no_patient_in_header": ["1.2.5"]}

    place = MaskRows.parse(first.images[0].masks["pneumothorax"])
    assert place is not None and Path(place.table) == root / table
    assert [row["EncodedPixels"] for row in place.read()] == ["10 3 2 1", "99 5"]


def test_the_repack_as_png(tree: Callable[..., Path]) -> None:
    header = "new_filename,ImageId,has_pneumo\n"
    root = tree(
        {
            "stage_1_train_images.csv": f"{header}0_train_1_.png,1.2.1,1\n1_train_0_.png,1.2.2,0\n",
            "stage_1_test_images.csv": f"{header}0_test_0_.png,1.2.3,0\n",
            "png_images/0_train_1_.png": "",
            "png_masks/0_train_1_.png": "",
            "png_images/0_test_0_.png": "",
        }
    )
    log = ConversionLog()
    train, test = read(root, log)
    assert (train.study_id, train.split, train.labels) == ("1.2.1", "train", {"Pneumothorax": 1.0})
    assert train.images[0].masks == {"pneumothorax": str(root / "png_masks/0_train_1_.png")}
    assert (test.split, test.images[0].masks) == ("test", {})
    assert log.left_out == {"image_missing": ["1_train_0_.png"]}
    assert log.noted == {"no_mask": ["1.2.3"]}


def test_another_word_for_the_label_is_refused_by_line(tree: Callable[..., Path]) -> None:
    table = "new_filename,ImageId,has_pneumo\na.png,1.2.1,yes\n"
    root = tree({"stage_1_test_images.csv": table})
    with pytest.raises(DataError, match="has_pneumo is 'yes'") as caught:
        list(read(root, ConversionLog()))
    assert str(caught.value.where).endswith("images.csv:2")
