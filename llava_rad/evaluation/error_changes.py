"""Observations that a second system finds, misses or invents where a first one does not.

Both systems have the same cases, so each case is a pair. The interval of a difference is by patient
(:func:`~llava_rad.statistics.paired_proportion_intervals`), the p-value that of all swaps of the
two systems' outputs, patient by patient (:func:`~llava_rad.statistics.swap_p_value`). All cells
that are tested are exploratory and corrected together (Holm); those of few patients are not tested.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llava_rad.evaluation.observation_errors import (
    ROWS,
    Cell,
    ErrorMatrix,
    Share,
    Stated,
    by_unit,
    error_matrix,
    share_columns,
)
from llava_rad.evaluation.subgroups import Subgroups
from llava_rad.statistics import (
    LEVEL,
    SIGNIFICANT,
    Interval,
    Units,
    holm,
    paired_proportion_intervals,
    swap_p_value,
)

Verdict = Literal["better", "worse", "not shown", "few"]


@dataclass(frozen=True)
class Change:
    """A share of the second system less that of the first, on the same cases.

    Attributes:
        more: cases that count for the second system alone.
        less: cases that count for the first alone.
        cases: of both.
        units: patients that the cases come from; studies, where no patient is named.
        interval: of the difference; None where fewer than two units have a case.
        good: whether a rise is an improvement: found observations, not invented ones.
        few: whether the units are too few to test.
        p: two-sided p-value; None where it is not tested.
        corrected: the same, corrected for the number of tests (Holm).
    """

    more: int
    less: int
    cases: int
    units: int
    interval: Interval | None
    good: bool
    few: bool
    p: float | None = None
    corrected: float | None = None

    @property
    def difference(self) -> float | None:
        """In [-1, 1]; None without any case."""
        return (self.more - self.less) / self.cases if self.cases else None

    @property
    def direction(self) -> Literal["better", "worse", "same"]:
        """Where the difference points, whether or not it is shown."""
        if self.more == self.less:
            return "same"
        return "better" if (self.more > self.less) == self.good else "worse"

    @property
    def verdict(self) -> Verdict:
        """What the corrected test says."""
        if self.few:
            return "few"
        if self.corrected is None or self.corrected >= SIGNIFICANT or self.direction == "same":
            return "not shown"
        return self.direction


@dataclass(frozen=True)
class CellChange:
    """One observation in one subgroup, of two systems.

    Attributes:
        first, second: of each system.
        found: change of the share that is found.
        invented: change of the share that is invented.
    """

    first: Cell
    second: Cell
    found: Change
    invented: Change


@dataclass(frozen=True)
class ErrorChanges:
    """Two systems on the same studies.

    Attributes:
        first, second: their matrices.
        cells: for each subgroup, in their order, a change for each of ``ROWS``.
    """

    first: ErrorMatrix
    second: ErrorMatrix
    cells: tuple[tuple[CellChange, ...], ...]

    @property
    def subgroups(self) -> Subgroups:
        """The columns."""
        return self.first.subgroups

    def all(self) -> list[Change]:
        """Every change, the tested and the others."""
        return [
            change for row in self.cells for cell in row for change in (cell.found, cell.invented)
        ]

    def tested(self) -> int:
        """How many changes the correction is for."""
        return sum(change.p is not None for change in self.all())


def interval_method(units: Units) -> str:
    """How the intervals are made, for people."""
    return (
        f"{100 * LEVEL:.0f} % by Agresti and Min's formula for pairs, with the variance between "
        f"{units.plural}"
    )


def p_value_method(units: Units) -> str:
    """How the p-values are made, for people."""
    return f"exact, over all swaps of the two systems' outputs, {units.name} by {units.name}"


def error_changes(
    first: Stated, second: Stated, subgroups: Subgroups, units: Units
) -> ErrorChanges:
    """Compare two systems.

    Args:
        first: labels of the one that is compared with.
        second: labels of the other, on the same studies in the same order.
        subgroups: of these studies.
        units: of these studies.
    """
    before, after = (error_matrix(stated, subgroups, units) for stated in (first, second))
    found, invented = [], []
    for group, of_group in zip(subgroups.groups, before.cells, strict=True):
        some = units.on(group.studies)
        theirs = first.expected[group.studies]
        gain = second.predicted[group.studies].astype(np.int8) - first.predicted[group.studies]
        found.append(_changes(gain * theirs, theirs, [c.found for c in of_group], some, good=True))
        invented.append(
            _changes(gain * ~theirs, ~theirs, [c.invented for c in of_group], some, good=False)
        )
    corrected = _corrected([found, invented])
    cells = tuple(
        tuple(map(CellChange, *row))
        for row in zip(before.cells, after.cells, *corrected, strict=True)
    )
    return ErrorChanges(before, after, cells)


def _changes(
    gain: NDArray[np.int8],
    cases: NDArray[np.bool_],
    shares: list[Share],
    units: Units,
    *,
    good: bool,
) -> list[Change]:
    """Of each of ``ROWS``; ``gain`` [studies, 14] is 1 for the second alone, -1 for the first."""
    more, less, of_cases = (by_unit(marks, units) for marks in (gain > 0, gain < 0, cases))
    intervals = paired_proportion_intervals(more - less, of_cases)
    return [
        Change(
            more=int(more[:, i].sum()),
            less=int(less[:, i].sum()),
            cases=share.cases,
            units=share.units,
            interval=intervals[i],
            good=good,
            few=share.few,
            p=None if share.few else swap_p_value((more - less)[:, i]),
        )
        for i, share in enumerate(shares)
    ]


def _corrected(kinds: list[list[list[Change]]]) -> list[list[list[Change]]]:
    p_values = [c.p for kind in kinds for row in kind for c in row if c.p is not None]
    corrected = iter(holm(p_values))
    return [
        [[c if c.p is None else replace(c, corrected=next(corrected)) for c in row] for row in kind]
        for kind in kinds
    ]


def change_rows(changes: ErrorChanges) -> Iterator[dict[str, Any]]:
    """Every cell as plain values, for JSON lines and tables."""
    for group, cells in zip(changes.subgroups.groups, changes.cells, strict=True):
        for observation, cell in zip(ROWS, cells, strict=True):
            yield {
                "uncertain": changes.first.stated.policy,
                "subgroup": group.column or "all",
                "value": group.value,
                "observation": observation,
                "studies": len(group.studies),
                **{
                    f"{who}_{key}": value
                    for who, of in (("first", cell.first), ("second", cell.second))
                    for name, share in (("found", of.found), ("invented", of.invented))
                    for key, value in {name: share.count, **share_columns(name, share)}.items()
                },
                **_change_columns("found", cell.found),
                **_change_columns("invented", cell.invented),
            }


def _change_columns(name: str, change: Change) -> dict[str, Any]:
    interval = change.interval
    return {
        f"{name}_second_alone": change.more,
        f"{name}_first_alone": change.less,
        f"{name}_difference": change.difference,
        f"{name}_difference_low": interval.low if interval else None,
        f"{name}_difference_high": interval.high if interval else None,
        f"{name}_p": change.p,
        f"{name}_p_corrected": change.corrected,
        f"{name}_verdict": change.verdict,
    }
