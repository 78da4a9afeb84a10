"""Boxes are paired one to one; every number is worked out by hand."""

import numpy as np
import pytest

from llava_rad.boxes import Box
from llava_rad.errors import MetricError
from llava_rad.metrics.box_overlap import box_baselines, box_overlap, paired

LEFT, HALF, RIGHT = Box(0, 0, 0.5, 1), Box(0, 0, 0.5, 0.5), Box(0.5, 0, 1, 1)
CORNER = Box(0.75, 0.75, 1, 1)


def test_values_by_hand() -> None:
    # One half found with IoU 1/2 and one box beside it; a corner within the right half, IoU 1/8;
    # a missed box; a study without any.
    result = box_overlap([[HALF, RIGHT], [RIGHT], [], []], [[LEFT], [CORNER], [HALF], []])
    values = result.values
    assert values["overlap/precision"] == pytest.approx(2 / 3)
    assert values["overlap/recall"] == pytest.approx(2 / 3)
    assert values["iou_0.1/recall"] == pytest.approx(2 / 3)
    assert values["iou_0.3/precision"] == pytest.approx(1 / 3)
    assert values["iou_0.5/recall"] == pytest.approx(1 / 3)
    assert values["iou_0.75/f1"] == 0
    assert values["mean_iou"] == pytest.approx((1 / 2 + 1 / 8) / 3)
    assert values["pixel_precision"] == pytest.approx((1 / 4 + 1 / 16) / (3 / 4 + 1 / 2))
    assert values["pixel_recall"] == pytest.approx((1 / 4 + 1 / 16) / (1 / 2 + 1 / 16 + 1 / 4))
    assert (values["both/overlap"], values["both/studies"]) == (1, 2)
    assert result.details[0] == {"iou": [0.5]}
    assert result.on([2, 3]).values["overlap/recall"] == 0


def test_a_box_is_paired_once_and_the_best_pair_first() -> None:
    near = Box(0, 0, 0.5, 0.9)
    assert paired([HALF, near], [LEFT]) == [pytest.approx(0.9)]
    assert paired([LEFT], [HALF, near]) == [pytest.approx(0.9)]
    assert paired([HALF], [RIGHT]) == []


def test_boxes_that_only_touch_do_not_overlap_and_a_threshold_is_reached_by_equality() -> None:
    assert box_overlap([[LEFT]], [[RIGHT]]).values["overlap/recall"] == 0
    assert box_overlap([[HALF]], [[LEFT]]).values["iou_0.5/recall"] == 1


def test_baselines_by_hand() -> None:
    predicted = [[CORNER], [CORNER], []]
    expected = [[Box(0.25, 0.25, 0.5, 0.5)], [], [HALF]]
    patients = ["a", "b", "c"]
    found = box_baselines(predicted, expected, patients, training=[Box(0.25, 0.25, 0.5, 0.5)])
    assert found.fixed_from == "training"
    values = {name: result.values for name, result in found.results.items()}
    assert values["mean_box"]["iou_0.75/precision"] == 0.5
    # The centre box of the same size shares a quarter of it: 1/7.
    assert values["centre"]["mean_iou"] == pytest.approx(1 / 7 / 2)
    assert values["other_patient"]["overlap/precision"] == 0
    # A box of a quarter's side overlaps another at 0.25 to 0.5 from 0 up to 0.5 of 0.75.
    overlaps = (0.5 / 0.75) ** 2
    assert values["random_place"]["overlap/precision"] == pytest.approx(overlaps / 2, abs=0.08)
    alone = box_baselines([[CORNER]], [[CORNER]], ["a"])
    assert "other_patient" not in alone.results and alone.fixed_from != "training"


def test_no_boxes_at_all_are_zeros_and_no_error() -> None:
    result = box_overlap([[], []], [[], []])
    assert not any(np.array(list(result.values.values())))
    assert "mean_box" not in box_baselines([[]], [[]], ["a"]).results


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(MetricError, match="boxes of 1 study but true ones of 2"):
        box_overlap([[]], [[], []])
    with pytest.raises(MetricError, match="0 studies"):
        box_overlap([], [])
