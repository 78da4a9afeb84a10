"""R2Gen's preparation of IU X-ray."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog
from llava_rad.data.iu_xray import read
from llava_rad.errors import DataError


def entry(name: str, split: str, report: str = "The XXXX are clear. No effusion.") -> dict:
    paths = [f"{name}/0.png", f"{name}/1.png"]
    return {"id": name, "report": report, "image_path": paths, "split": split}


def test_splits_views_and_broken_rows(tree: Callable[..., Path]) -> None:
    annotations = {
        "train": [entry("CXR1_IM-0001", "train"), entry("CXR2_IM-0002", "train", " ")],
        "val": [entry("CXR3_IM-0003", "val")],
        "test": [entry("CXR4_IM-0004", "test")],
    }
    files = {
        f"images/{name}/{i}.png": ""
        for name in ("CXR1_IM-0001", "CXR2_IM-0002", "CXR3_IM-0003")
        for i in (0, 1)
    }
    files.pop("images/CXR3_IM-0003/1.png")
    root = tree({**files, "annotation.json": json.dumps(annotations)})
    log = ConversionLog()
    first, second, third = read(root, log)
    assert first.findings == "No effusion."
    assert [image.view for image in first.images] == ["frontal", "lateral"]
    assert first.images[0].path == str(root / "images/CXR1_IM-0001/0.png")
    assert (first.split, third.split) == ("train", "validation")
    assert second.findings is None
    assert log.left_out == {
        "image_missing": ["CXR3_IM-0003/1.png", "CXR4_IM-0004/0.png", "CXR4_IM-0004/1.png"],
        "no_image": ["CXR4_IM-0004"],
    }
    assert log.noted == {"no_text": ["CXR2_IM-0002"]}


@pytest.mark.parametrize("content", ["{", "[]", '{"train": 5}'])
def test_a_wrong_annotation_file(tree: Callable[..., Path], content: str) -> None:
    with pytest.raises(DataError, match=r"annotation\.json"):
        list(read(tree({"annotation.json": content}), ConversionLog()))
