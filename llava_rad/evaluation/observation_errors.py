"""Observations that were found, missed and invented, by subgroup: the matrix of one system.

A study whose reference states an observation is a case in which it can be found or missed; one
whose reference does not is a case in which it can be invented. So the cases depend on the
references alone, and two systems have the same. Intervals are by patient
(:func:`~llava_rad.statistics.proportion_intervals`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.evaluation.subgroups import Subgroups
from llava_rad.metrics.label_f1 import POLICIES, label_f1, stated_labels
from llava_rad.metrics.result import Floats, MetricResult
from llava_rad.observations import OBSERVATIONS
from llava_rad.statistics import LEVEL, Interval, Units, proportion_intervals

FEW = 20
"""Fewer patients (studies, where none is named) with a case are few: their share says little."""
TOGETHER = "13 observations together"
"""The last row: the cases of all observations but No Finding."""
ROWS = (*OBSERVATIONS, TOGETHER)
DEFINITIONS = {
    "found": "cases whose reference and prediction state the observation",
    "missed": "cases whose reference alone states it",
    "invented": "cases whose prediction alone states it",
    "found_share": "found, of the cases whose reference states it",
    "invented_share": "invented, of the cases whose reference does not state it",
}
NO_LABELS = "no errors by subgroup: no labeler knows the language of the reports"
_LABELERS = ("chexbert", "chexpert_rules")


@dataclass(frozen=True)
class Share:
    """A part of the cases of a cell.

    Attributes:
        count: of the part.
        cases: in which it could be.
        units: patients that these cases come from; studies, where no patient is named.
        interval: of the share, None where fewer than two units have a case.
    """

    count: int
    cases: int
    units: int
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """In [0, 1]; None without any case."""
        return self.count / self.cases if self.cases else None

    @property
    def few(self) -> bool:
        """Whether the units are too few to read the share."""
        return self.units < FEW


@dataclass(frozen=True)
class Cell:
    """One observation in one subgroup.

    Attributes:
        found: of the cases whose reference states it.
        invented: of the cases whose reference does not.
    """

    found: Share
    invented: Share

    @property
    def missed(self) -> int:
        """Cases whose reference alone states it."""
        return self.found.cases - self.found.count


@dataclass(frozen=True)
class Stated:
    """What one system's texts and the references state.

    Attributes:
        labeler: the metric whose labels these are.
        policy: what an uncertain mention counts as.
        predicted: whether each prediction states each observation [studies, 14].
        expected: the same of the references.
    """

    labeler: str
    policy: str
    predicted: NDArray[np.bool_]
    expected: NDArray[np.bool_]


@dataclass(frozen=True)
class ErrorMatrix:
    """What was found, missed and invented.

    Attributes:
        stated: the labels that it counts.
        subgroups: its columns.
        units: whose cases are alike.
        cells: for each subgroup, in their order, a cell for each of :data:`ROWS`.
    """

    stated: Stated
    subgroups: Subgroups
    units: Units
    cells: tuple[tuple[Cell, ...], ...]


def interval_method(units: Units) -> str:
    """How the intervals are made, for people."""
    return (
        f"{100 * LEVEL:.0f} % by Wilson's formula, the number of cases divided by the design "
        f"effect of {units.plural}"
    )


def labeler_of(results: Mapping[str, MetricResult], primary: str) -> str:
    """The metric whose labels are counted: the primary value's, else CheXbert, else the rules."""
    metric = primary.partition("/")[0]
    known = [name for name in (metric, *_LABELERS) if name in _LABELERS and name in results]
    return known[0] if known else "chexpert_rules"


def stated_observations(
    results: Mapping[str, MetricResult], mentions: NDArray[np.int64] | None, primary: str
) -> list[Stated]:
    """What predictions and references state under each policy, that of the primary value first.

    Args:
        results: of the metrics.
        mentions: what chexpert-rules find in predictions and references [2, studies, 14], where
            they are in English.
        primary: the declared value: the labeler is its own, if it has one.

    Returns:
        One for each policy; none where there are no labels.
    """
    labeler = labeler_of(results, primary)
    if labeler in results:
        result = results[labeler]
    elif mentions is not None:
        result = label_f1(labeler, mentions[0], mentions[1], facts={})
    else:
        return []
    policies = sorted(POLICIES, key=lambda policy: f"/{policy}/" not in primary)
    return [Stated(labeler, policy, *stated_labels(result, policy)) for policy in policies]


def error_matrix(stated: Stated, subgroups: Subgroups, units: Units) -> ErrorMatrix:
    """Count what was found, missed and invented.

    Args:
        stated: the labels.
        subgroups: of the same studies.
        units: of the same studies.
    """
    cells = []
    for group in subgroups.groups:
        of_group = units.on(group.studies)
        mine, theirs = stated.predicted[group.studies], stated.expected[group.studies]
        found = shares(mine & theirs, theirs, of_group)
        invented = shares(mine & ~theirs, ~theirs, of_group)
        cells.append(tuple(map(Cell, found, invented)))
    return ErrorMatrix(stated, subgroups, units, tuple(cells))


def shares(hits: NDArray[np.bool_], cases: NDArray[np.bool_], units: Units) -> list[Share]:
    """The share of the hits among the cases, for each of :data:`ROWS`.

    Args:
        hits: [studies, 14], each a case.
        cases: [studies, 14].
        units: of the studies.
    """
    of_hits, of_cases = by_unit(hits, units), by_unit(cases, units)
    intervals = proportion_intervals(of_hits, of_cases)
    with_case = (of_cases > 0).sum(axis=0)
    numbers = (of_hits.sum(axis=0), of_cases.sum(axis=0), with_case)
    return [
        Share(int(count), int(total), int(some), interval)
        for count, total, some, interval in zip(*numbers, intervals, strict=True)
    ]


def by_unit(marked: NDArray[np.bool_] | NDArray[np.int8], units: Units) -> Floats:
    """Marks of studies [studies, 14], counted for each unit and each of :data:`ROWS`."""
    together = marked[:, :-1].sum(axis=1, keepdims=True)
    return units.sums(np.hstack([marked, together]).astype(np.float64))


def matrix_rows(matrix: ErrorMatrix) -> Iterator[dict[str, Any]]:
    """Every cell as plain values, for JSON lines and tables."""
    for group, cells in zip(matrix.subgroups.groups, matrix.cells, strict=True):
        for observation, cell in zip(ROWS, cells, strict=True):
            yield {
                "uncertain": matrix.stated.policy,
                "subgroup": group.column or "all",
                "value": group.value,
                "observation": observation,
                "studies": len(group.studies),
                "found": cell.found.count,
                "missed": cell.missed,
                "invented": cell.invented.count,
                **share_columns("found", cell.found),
                **share_columns("invented", cell.invented),
            }


def share_columns(name: str, share: Share) -> dict[str, Any]:
    """A share as columns of a table."""
    interval = share.interval
    return {
        f"{name}_cases": share.cases,
        f"{name}_units": share.units,
        f"{name}_share": share.value,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
        f"{name}_few": share.few,
    }
