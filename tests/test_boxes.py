"""Boxes are checked once, and their areas are exact."""

import math

import pytest

from llava_rad.boxes import Box, area_of, common_area, mean_box
from llava_rad.errors import DataError


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ((0.1, 0.1, 240, 0.2), "x_max of a box is 240.*divide pixels"),
        ((-0.1, 0.1, 0.2, 0.2), "x_min of a box is -0.1"),
        ((0.1, math.nan, 0.2, 0.2), "y_min of a box is nan"),
        ((0.1, 0.1, 0.2, math.inf), "y_max of a box is inf"),
        ((0.1, None, 0.2, 0.2), "y_min of a box is None.*number"),
        ((0.1, 0.1, True, 0.2), "x_max of a box is True"),
        ((0.3, 0.1, 0.2, 0.2), "a box has x_min 0.3 and x_max 0.2.*Give x_min below x_max"),
        ((0.1, 0.2, 0.2, 0.2), "a box has y_min 0.2 and y_max 0.2"),
        ((0.1, 0.1, 10**400, 0.2), "x_max of a box is 1000"),
        ((0, 0, 1e-200, 1e-200), "a box has no area"),
    ],
)
def test_what_is_no_box_is_refused(edges: tuple, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        Box(*edges)
    assert error.value.kind == "bad_box"


def test_pixels_and_shares() -> None:
    box = Box.of_pixels(50, 100, 100, 300, width=200, height=400)
    assert box == Box(0.25, 0.25, 0.5, 0.75)
    assert box.in_pixels(1000, 100) == (250.0, 25.0, 500.0, 75.0)
    # Annotation tools round: one pixel beyond the edge is the edge, two are not.
    assert Box.of_pixels(-1, 0, 201, 400, width=200, height=400) == Box(0, 0, 1, 1)
    with pytest.raises(DataError, match="the box -2, 0, 9, 9 is none on a picture of 200 x 400"):
        Box.of_pixels(-2, 0, 9, 9, width=200, height=400)
    for edges, width in (((0, 0, 10**400, 9), 200), ((0, 0, 9, 9), 0)):
        with pytest.raises(DataError, match="is none on a picture"):
            Box.of_pixels(*edges, width=width, height=400)
    assert Box.around(0.02, 0.5, 0.1, 0.2) == Box(0.0, 0.4, 0.02 + 0.05, 0.6)


def test_overlap_by_hand() -> None:
    one, other = Box(0, 0, 0.5, 0.5), Box(0.25, 0.25, 0.75, 0.75)
    assert one.overlap(other) == 0.0625
    assert one.iou(other) == pytest.approx(0.0625 / 0.4375)
    assert one.iou(Box(0.5, 0, 1, 1)) == 0
    assert one.iou(one) == 1
    assert mean_box([one, other]) == Box(0.125, 0.125, 0.625, 0.625)


def test_areas_of_several_equal_a_count_of_pixels() -> None:
    boxes = [Box(0.0, 0.1, 0.5, 0.6), Box(0.3, 0.2, 0.9, 0.5), Box(0.3, 0.3, 0.4, 1.0)]
    others = [Box(0.2, 0.0, 0.4, 0.9), Box(0.8, 0.8, 1.0, 1.0)]
    cells = [((i + 0.5) / 20, (j + 0.5) / 20) for i in range(20) for j in range(20)]

    def covers(some: list[Box], x: float, y: float) -> bool:
        return any(b.x_min < x < b.x_max and b.y_min < y < b.y_max for b in some)

    assert area_of(boxes) == pytest.approx(sum(covers(boxes, *c) for c in cells) / 400)
    both = sum(covers(boxes, *c) and covers(others, *c) for c in cells) / 400
    assert common_area(boxes, others) == pytest.approx(both)
    assert area_of([]) == 0 and common_area(boxes, []) == 0
