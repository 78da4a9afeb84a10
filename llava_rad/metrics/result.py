"""What every metric returns, and the checks its input goes through.

A metric of this package is described by *additive* statistics: a row of numbers for each pair of
texts whose sum over any set of pairs gives the metric on that set. A mean has two columns (value
and one), BLEU has its n-gram counts and lengths, an F1 its true and false positives. Bootstrap
intervals, comparisons and results on a part of the pairs are then sums of rows, never a second
run of the metric.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llava_rad.errors import MetricError
from llava_rad.wording import counted

Floats = NDArray[np.float64]


class Details(Sequence[dict[str, Any]]):
    """More about each pair, kept as packed JSON: a report's entities as objects take 20 times that.

    Args:
        items: of the pairs, in their order; each is packed as it comes.

    Example:
        >>> details = Details([{"matched": ["effusion"]}, {"matched": []}])
        >>> details[0]["matched"], len(details)
        (['effusion'], 2)
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()) -> None:
        self._packed: list[bytes] = []
        for item in items:
            self.append(item)

    def append(self, item: Mapping[str, Any]) -> None:
        """Add what there is about the next pair."""
        self._packed.append(zlib.compress(json.dumps(item).encode(), level=1))

    def on(self, pairs: Iterable[int]) -> "Details":
        """The details of some of the pairs."""
        chosen = Details()
        chosen._packed = [self._packed[i] for i in pairs]
        return chosen

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Details": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Details":
        if isinstance(index, slice):
            return self.on(range(*index.indices(len(self))))
        item: dict[str, Any] = json.loads(zlib.decompress(self._packed[index]))
        return item

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(frozen=True)
class MetricResult:
    """One metric on a list of prediction-reference pairs.

    Attributes:
        metric: the metric's name, such as ``"bleu_coco"``.
        per_pair: for each value that has a meaning for one pair, an array [pairs].
        sums: additive statistics [pairs, columns].
        combine: turns summed statistics [..., columns] into the metric's values, each [...].
        facts: what the numbers depend on: scorer, version, convention, policy, counts.
        notes: warnings for the reader of the numbers.
        details: more about each pair, such as its matched and missed entities; may be empty.
    """

    metric: str
    per_pair: dict[str, Floats]
    sums: Floats
    combine: Callable[[Floats], dict[str, Floats]] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)

    @property
    def values(self) -> dict[str, float]:
        """The corpus values, by name."""
        return {name: float(value) for name, value in self.combine(self.sums.sum(axis=0)).items()}

    def on(self, pairs: ArrayLike) -> "MetricResult":
        """The metric on some of the pairs, given as indices or a mask."""
        chosen = np.flatnonzero(pairs) if np.asarray(pairs).dtype == bool else np.asarray(pairs)
        return replace(
            self,
            per_pair={name: values[chosen] for name, values in self.per_pair.items()},
            sums=self.sums[chosen],
            details=self.details.on(chosen) if self.details else self.details,
        )


def mean_result(
    metric: str,
    per_pair: Mapping[str, ArrayLike],
    *,
    facts: dict[str, Any],
    notes: Sequence[str] = (),
    details: Details | None = None,
) -> MetricResult:
    """A metric whose corpus values are the means of its values for each pair."""
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in per_pair.items()}
    names = list(columns)
    sums = np.column_stack([*columns.values(), np.ones(len(columns[names[0]]))])

    def combine(totals: Floats) -> dict[str, Floats]:
        count = np.maximum(totals[..., -1], 1)
        return {name: totals[..., i] / count for i, name in enumerate(names)}

    return MetricResult(metric, columns, sums, combine, facts, tuple(notes), details or Details())


def join_results(first: MetricResult, second: MetricResult) -> MetricResult:
    """One result with the values of both, under the first one's name."""
    columns = first.sums.shape[1]

    def combine(totals: Floats) -> dict[str, Floats]:
        return {**first.combine(totals[..., :columns]), **second.combine(totals[..., columns:])}

    return MetricResult(
        first.metric,
        {**first.per_pair, **second.per_pair},
        np.hstack([first.sums, second.sums]),
        combine,
        {**second.facts, **first.facts},
        (*first.notes, *second.notes),
        first.details or second.details,
    )


def check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Refuse what no metric is defined for.

    Raises:
        MetricError: the arguments are not two equally long, non-empty lists of strings.
    """
    for name, texts in (("predictions", predictions), ("references", references)):
        if isinstance(texts, str):
            raise MetricError(
                "expected a list of texts, got one string",
                where=name,
                remedy="Put the text into a list",
                kind="not_a_list",
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise MetricError(
                    f"expected a string, got {type(text).__name__}",
                    where=f"{name}[{i}]",
                    remedy="Give exactly one text for each study; join or choose among several",
                    kind="not_a_string",
                )
    if len(predictions) != len(references):
        raise MetricError(
            f"{counted(len(predictions), 'prediction')} but "
            f"{counted(len(references), 'reference')}",
            remedy="Give one reference for each prediction, in the same order",
            kind="length_mismatch",
        )
    if not predictions:
        raise MetricError(
            "there are no pairs to score",
            remedy="Give at least one prediction and its reference",
            kind="no_pairs",
        )


def is_empty(text: str) -> bool:
    """Whether a text holds nothing but white space."""
    return not text.strip()


def some_empty(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.bool_]:
    """A mask [pairs] of the pairs in which one of the texts is empty."""
    return np.array(
        [is_empty(p) or is_empty(r) for p, r in zip(predictions, references, strict=True)]
    )


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Element-wise division in which anything over zero is zero."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def harmonic(precision: ArrayLike, recall: ArrayLike) -> Floats:
    """F1 of precision and recall; zero where both are zero."""
    precision, recall = np.asarray(precision), np.asarray(recall)
    return ratio(2 * precision * recall, precision + recall)


def json_number(value: float) -> float | int | None:
    """A number as JSON can hold it: integers without a point, nothing for what is not finite."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) > 1 else value
