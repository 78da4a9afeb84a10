"""Files made from public bug reports, with the picture or the error that is right."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph

_FOLDER = Path(__file__).parents[2] / ".." / "shared" / "cases"
_EXPECTED = _FOLDER / "expected.json"
CASES = json.loads(_EXPECTED.read_text())["cases"] if _EXPECTED.is_file() else []


def _kinds(radiograph):
    return {warning.split(":")[0] for warning in radiograph.warnings}


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case_gives_its_picture_or_its_error(shared_cases, case, rendering):
    path = shared_cases / case["file"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if case["kind"] == "error":
            with pytest.raises(ImageError) as error:
                load_radiograph(path, rendering=rendering)
            assert error.value.kind == case["error"]
            assert str(path) in str(error.value)
            assert error.value.remedy
            assert ImageFile.LOAD_TRUNCATED_IMAGES is False
            return
        radiograph = load_radiograph(path, rendering=rendering)

    name = rendering
    if "voi" not in case["arrays"] and rendering == "voi":
        # Plain images carry no window: up to 8 bits they are shown as they are.
        name = "full" if radiograph.photometric["bits_stored"] <= 8 else "minmax"
    expected = np.load(shared_cases / case["arrays"][name])
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.shape == tuple(case["shape"])
    difference = np.abs(radiograph.pixels.astype(int) - expected)
    assert difference.max() <= case["tolerance"]
    assert radiograph.rendering == rendering
    if "view" in case:
        assert radiograph.view == case["view"]
    if "warn" in case:
        assert case["warn"] in _kinds(radiograph)
    elif rendering == "minmax" and case["name"] != "hot_pixel_with_window":
        assert radiograph.warnings == ()


def test_all_files_are_covered(shared_cases):
    files = {
        f"{folder}/{path.name}"
        for folder in ("dicom", "image")
        for path in (shared_cases / folder).iterdir()
    }
    assert files == {case["file"] for case in CASES}


def test_one_hot_pixel_ruins_minmax_and_is_reported(shared_cases):
    path = shared_cases / "dicom" / "hot_pixel_with_window.dcm"
    dark, window = load_radiograph(path), load_radiograph(path, rendering="voi")
    assert dark.pixels.mean() < 3
    assert "low_contrast" in _kinds(dark)
    assert window.pixels.mean() > 60
    assert not window.warnings


def test_lut_wins_over_window_and_is_named(shared_cases):
    path = shared_cases / "dicom" / "voi_lut_and_window.dcm"
    assert load_radiograph(path, rendering="voi").photometric["voi"] == "lut"


def test_a_folder_goes_on_after_bad_files(shared_cases):
    good, bad = 0, []
    for path in sorted((shared_cases / "image").iterdir()):
        try:
            load_radiograph(path)
            good += 1
        except ImageError as error:
            bad.append((path.name, error.kind))
    assert good == 10
    assert bad == [
        ("cut.jpg", "truncated_image"),
        ("cut.png", "truncated_image"),
        ("empty.png", "empty_file"),
    ]
