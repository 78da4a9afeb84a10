"""How well boxes agree with those of a reader: precision and recall by overlap, in [0, 1].

In each study predicted and true boxes are paired one to one, the pair of the largest intersection
over union (IoU) first. At a threshold a pair counts if its IoU is at least that; ``overlap`` counts
every pair that overlaps at all. Precision is the share of the predicted boxes that count, recall
that of the true boxes, over all boxes of all studies. What a box is of is not compared: whether the
sentence is true is judged by other metrics.

``mean_iou`` is the mean over the true boxes of the IoU of their pair, 0 for a missed one.
``pixel_precision`` and ``pixel_recall`` compare what the boxes cover together. ``both/overlap`` is
the share of the studies with a predicted and a true box in which they overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_rad.boxes import Box, area_of, common_area, mean_box
from llava_rad.errors import MetricError
from llava_rad.metrics.result import Details, Floats, MetricResult, harmonic, ratio
from llava_rad.wording import counted

NAME = "box_overlap"
THRESHOLDS = (0.1, 0.3, 0.5, 0.75)
DEFINITION = (
    "Boxes paired one to one by intersection over union (IoU), the largest first; precision and "
    "recall over all boxes, of pairs that overlap or reach an IoU; whatever they are of; 0 to 1"
)
_LEVELS = ("overlap", *(f"iou_{threshold}" for threshold in THRESHOLDS))
#: Values that tables show.
HEADLINES = (
    *(f"{level}/{value}" for level in ("overlap", "iou_0.3") for value in ("precision", "recall")),
    "mean_iou",
    "both/overlap",
)
_DRAWS = 100  # of random places

Boxes = Sequence[Sequence[Box]]


def box_overlap(predicted: Boxes, expected: Boxes) -> MetricResult:
    """Compare predicted with true boxes.

    Args:
        predicted: boxes of each study, in shares of its picture.
        expected: a reader's, in the same order.

    Returns:
        Values ``overlap/precision``, ``overlap/recall``, ``overlap/f1`` and the same for
        ``iou_0.1`` to ``iou_0.75``, ``mean_iou``, ``pixel_precision``, ``pixel_recall``,
        ``pixel_f1``, ``both/overlap`` (the share) and ``both/studies`` (of how many). The details
        of a study are the IoU of its pairs.

    Raises:
        MetricError: the lists are not equally long, or empty.

    Example:
        >>> from llava_rad.boxes import Box
        >>> from llava_rad.metrics.box_overlap import box_overlap
        >>> result = box_overlap([[Box(0, 0, 0.5, 0.5)]], [[Box(0, 0, 0.5, 1)]])
        >>> result.values["mean_iou"], result.values["iou_0.75/recall"]
        (0.5, 0.0)
    """
    if len(predicted) != len(expected) or not expected:
        raise MetricError(
            f"boxes of {counted(len(predicted), 'study', 'studies')} but true ones of "
            f"{len(expected)}",
            where=NAME,
            remedy="Give a list of boxes for each study, empty where there is none",
            kind="length_mismatch",
        )
    pairs = [paired(mine, theirs) for mine, theirs in zip(predicted, expected, strict=True)]
    sums = np.array(
        [_row(*study) for study in zip(predicted, expected, pairs, strict=True)], dtype=np.float64
    )
    facts = {
        "scorer": "llava_rad",
        "boxes": {
            "prediction": sum(map(len, predicted)),
            "reference": sum(map(len, expected)),
        },
        "studies_with_boxes": {
            "prediction": sum(map(bool, predicted)),
            "reference": sum(map(bool, expected)),
        },
        "range": "0-1",
    }
    details = Details({"iou": [round(iou, 4) for iou in found]} for found in pairs)
    return MetricResult(NAME, _combine(sums), sums, _combine, facts, (), details)


def paired(predicted: Sequence[Box], expected: Sequence[Box]) -> list[float]:
    """The IoU of each pair of two lists of boxes, the largest first; only pairs that overlap."""
    every = sorted(
        (
            (-mine.iou(theirs), i, j)
            for i, mine in enumerate(predicted)
            for j, theirs in enumerate(expected)
            if mine.overlap(theirs) > 0
        ),
    )
    found: list[float] = []
    mine_taken: set[int] = set()
    theirs_taken: set[int] = set()
    for iou, i, j in every:
        if i not in mine_taken and j not in theirs_taken:
            mine_taken.add(i)
            theirs_taken.add(j)
            found.append(-iou)
    return found


@dataclass(frozen=True)
class BoxBaselines:
    """What boxes score that were placed without looking at the image.

    Attributes:
        results: by name, see :func:`box_baselines`.
        fixed_from: whose boxes the mean box is of.
    """

    results: dict[str, MetricResult]
    fixed_from: str


def box_baselines(
    predicted: Boxes,
    expected: Boxes,
    patients: Sequence[str],
    *,
    training: Sequence[Box] = (),
    seed: int = 0,
) -> BoxBaselines:
    """The same number of boxes in each study, placed without looking.

    Args:
        predicted: boxes of each study.
        expected: a reader's.
        patients: whose each study is.
        training: true boxes of training studies; without them the references are taken, which
            flatters what is made of them.
        seed: of the random places.

    Returns:
        ``random_place``: each predicted box anywhere on the picture, its size kept, the mean of 100
        draws. ``centre``: each of the mean size in the picture's centre. ``mean_box``: each the
        mean of the training boxes. ``other_patient``: the predicted boxes of the next study of
        another patient that has some, in each study that has some.
    """
    pool = [*training] or [box for boxes in expected for box in boxes]
    results: dict[str, MetricResult] = {}
    if pool:
        middle = mean_box(pool)
        width, height = middle.x_max - middle.x_min, middle.y_max - middle.y_min
        centre = Box.around(0.5, 0.5, width, height)
        for name, box in (("centre", centre), ("mean_box", middle)):
            results[name] = box_overlap([[box] * len(mine) for mine in predicted], expected)
    rng = np.random.default_rng(seed)
    draws = [
        box_overlap([[_moved(box, rng) for box in mine] for mine in predicted], expected)
        for _ in range(_DRAWS)
    ]
    mean = np.mean([draw.sums for draw in draws], axis=0)
    results["random_place"] = MetricResult(NAME, {}, mean, _combine, draws[0].facts)
    others = _of_other_patients(predicted, patients)
    if others is not None:
        results["other_patient"] = box_overlap(others, expected)
    return BoxBaselines(results, "training" if training else "the references themselves")


def _moved(box: Box, rng: np.random.Generator) -> Box:
    width, height = box.x_max - box.x_min, box.y_max - box.y_min
    x, y = float(rng.uniform(0, 1 - width)), float(rng.uniform(0, 1 - height))
    return Box(x, y, min(x + width, 1.0), min(y + height, 1.0))


def _of_other_patients(predicted: Boxes, patients: Sequence[str]) -> list[Sequence[Box]] | None:
    given = [i for i, boxes in enumerate(predicted) if boxes]
    found: list[Sequence[Box]] = [()] * len(predicted)
    for place, i in enumerate(given):
        later = [*given[place + 1 :], *given[:place]]
        other = next((j for j in later if patients[j] != patients[i]), None)
        if other is None:
            return None
        found[i] = predicted[other]
    return found if given else None


def _row(predicted: Sequence[Box], expected: Sequence[Box], ious: Sequence[float]) -> list[float]:
    hits = [len(ious), *(sum(iou >= threshold for iou in ious) for threshold in THRESHOLDS)]
    both = bool(predicted and expected)
    return [
        len(predicted),
        len(expected),
        *hits,
        sum(ious),
        common_area(predicted, expected),
        area_of(predicted),
        area_of(expected),
        both,
        both and bool(ious),
    ]


def _combine(totals: Floats) -> dict[str, Floats]:
    mine, theirs = totals[..., 0], totals[..., 1]
    values: dict[str, Floats] = {}
    for column, level in enumerate(_LEVELS, 2):
        hits = totals[..., column]
        values |= _scores(f"{level}/", hits, mine, theirs)
    iou, common, covered, true, both, overlapping = np.moveaxis(
        totals[..., 2 + len(_LEVELS) :], -1, 0
    )
    values["mean_iou"] = ratio(iou, theirs)
    values |= _scores("pixel_", common, covered, true)
    values["both/overlap"] = ratio(overlapping, both)
    values["both/studies"] = both
    return values


def _scores(prefix: str, hits: Floats, mine: Floats, theirs: Floats) -> dict[str, Floats]:
    precision, recall = ratio(hits, mine), ratio(hits, theirs)
    return {
        f"{prefix}precision": precision,
        f"{prefix}recall": recall,
        f"{prefix}f1": harmonic(precision, recall),
    }
