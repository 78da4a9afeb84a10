"""Groups of studies that errors are told apart by: sex, age, view, reference and source."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.data.fields import age_band
from llava_rad.evaluation.predictions import Prediction

#: Years, as in CheXclusion (Seyyed-Kalantari et al. 2021).
AGE_BAND, OLDEST_BAND = 20, 80
MOST_VALUES = 8
"""Values of one column that stand alone; the rarer ones stand together."""
ALL, NOT_KNOWN = "all studies", "not known"


@dataclass(frozen=True)
class Subgroup:
    """Some of the studies.

    Attributes:
        column: what tells them apart, such as ``"sex"``; empty for all studies.
        value: what they have in common, such as ``"F"``.
        studies: their places in the file [some].
    """

    column: str
    value: str
    studies: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Of the group, for people: ``sex F``."""
        return f"{self.column} {self.value}".strip()


@dataclass(frozen=True)
class Subgroups:
    """The groups of a file, all studies first.

    Attributes:
        groups: those of one column stand together and share no study.
        notes: columns that make no groups, and why.
    """

    groups: tuple[Subgroup, ...]
    notes: tuple[str, ...]

    def columns(self) -> dict[str, list[Subgroup]]:
        """The groups by column, all studies under an empty one."""
        found: dict[str, list[Subgroup]] = {}
        for group in self.groups:
            found.setdefault(group.column, []).append(group)
        return found


def find_subgroups(
    rows: Sequence[Prediction], normal: NDArray[np.bool_] | None, normal_by: str
) -> Subgroups:
    """Groups by every column that has at least two values, studies where it is not known aside.

    Args:
        rows: of the predictions.
        normal: mask [rows] of the normal references, where it can be told.
        normal_by: how it was told, or why it was not.
    """
    values: dict[str, list[str | None]] = {
        "sex": [row.sex for row in rows],
        "age": [None if row.age is None else _band(row.age) for row in rows],
        "view": [_word(row.view) for row in rows],
        "reference": [
            None if normal is None else "normal" if normal[i] else "abnormal"
            for i in range(len(rows))
        ],
        "source": [_word(row.source) for row in rows],
    }
    groups = [Subgroup("", ALL, np.arange(len(rows)))]
    notes, absent = [], []
    for column, of_rows in values.items():
        counts = Counter(value for value in of_rows if value is not None)
        if not counts and column != "reference":
            absent.append(column)
        elif not counts:
            notes.append(f"normal and abnormal references are {normal_by}")
        elif len(counts) == 1 and counts.total() == len(rows):
            notes.append(f"{column}: {next(iter(counts))} in all studies")
        else:
            groups += _groups(column, of_rows, counts)
            if len(counts) > MOST_VALUES:
                notes.append(
                    f"{column}: {len(counts)} values; the {MOST_VALUES} most frequent stand alone, "
                    "the others together"
                )
    if absent:
        notes.insert(0, f"not in the file of predictions: {', '.join(absent)}")
    return Subgroups(tuple(groups), tuple(notes))


def _groups(column: str, values: Sequence[str | None], counts: Counter[str]) -> list[Subgroup]:
    alone = [value for value, _ in counts.most_common(MOST_VALUES)]
    order = sorted(alone, key=_youngest if column == "age" else str)
    if column == "reference":
        order = ["normal", "abnormal"]
    others = f"{len(counts) - len(alone)} others"
    known = set(alone)
    named = np.array([NOT_KNOWN if v is None else v if v in known else others for v in values])
    return [
        Subgroup(column, value, np.flatnonzero(named == value))
        for value in (*order, others, NOT_KNOWN)
        if (named == value).any()
    ]


def _band(age: float) -> str:
    return f"{OLDEST_BAND} or more" if age >= OLDEST_BAND else age_band(age, AGE_BAND)


def _youngest(band: str) -> int:
    return int(band.split("-")[0].split()[0])


def _word(text: str | None) -> str | None:
    """A word of a table on one line, capitals as they are; long ones are cut."""
    word = " ".join((text or "").split())
    if word.casefold() == NOT_KNOWN:  # as a file may write it, which is no value beside it
        return None
    return (word if len(word) <= 60 else f"{word[:57]}...") or None
