"""Boxes go into the encoder's square and back: crop and padding are undone."""

import pytest

from llava_rad.boxes import Box
from llava_rad.encoders import Preprocessing

SHAPES = [(100, 200), (200, 100), (333, 517), (518, 518)]


def made(geometry: str) -> Preprocessing:
    return Preprocessing(image_size=112, mean=(0.5,) * 3, std=(0.5,) * 3, geometry=geometry)


@pytest.mark.parametrize("geometry", ["shorter_side_center_crop", "pad_square", "resize"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_there_and_back(geometry: str, height: int, width: int) -> None:
    preprocessing = made(geometry)
    box = Box(0.4, 0.45, 0.6, 0.5)
    there = preprocessing.box_in_square(box, height, width)
    assert there is not None
    back = preprocessing.box_on_image(there, height, width)
    assert back is not None
    assert vars(back) == pytest.approx(vars(box))


def test_by_hand() -> None:
    cropped, padded = made("shorter_side_center_crop"), made("pad_square")
    # 200 wide and 100 high: the crop shows columns 50 to 150, the padding 50 rows on each side.
    assert cropped.box_in_square(Box(0.25, 0, 0.5, 1), 100, 200) == Box(0, 0, 0.5, 1)
    assert cropped.box_in_square(Box(0.1, 0, 0.5, 1), 100, 200) == Box(0, 0, 0.5, 1)
    assert cropped.box_in_square(Box(0, 0, 0.25, 1), 100, 200) is None
    assert padded.box_in_square(Box(0, 0, 1, 1), 100, 200) == Box(0, 0.25, 1, 0.75)
    assert padded.box_on_image(Box(0, 0, 0.5, 0.5), 100, 200) == Box(0, 0, 0.5, 0.5)
    assert padded.box_on_image(Box(0, 0, 1, 0.25), 100, 200) is None


def test_the_crop_is_undone_as_maira_2_does() -> None:
    """Its processor adds the offset of a centred square of the shorter side."""
    height, width = 500, 617
    box = Box(0.105, 0.205, 0.505, 0.605)
    found = made("shorter_side_center_crop").box_on_image(box, height, width)
    offset = (width - height) // 2
    assert found is not None
    for edge, across in (("x_min", True), ("y_min", False), ("x_max", True), ("y_max", False)):
        share = getattr(box, edge) * height + (offset if across else 0)
        assert abs(getattr(found, edge) * (width if across else height) - share) < 3
