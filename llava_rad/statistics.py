"""Bootstrap intervals and paired tests from the metrics' additive statistics.

A resample of the pairs is a row of counts, its metric a product of these counts with the
statistics: a thousand resamples of every metric are one matrix product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import MetricError

Floats = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 10_000_000  # numbers in memory at once


class AdditiveResult(Protocol):
    """A result whose values follow from sums over pairs, such as a metric's on a list of texts."""

    @property
    def sums(self) -> Floats:
        """Additive statistics [pairs, columns]."""
        ...

    @property
    def values(self) -> dict[str, float]:
        """The values on all pairs, by name."""
        ...

    def combine(self, totals: Floats, /) -> dict[str, Floats]:
        """Turn summed statistics [..., columns] into values, each [...]."""
        ...


@dataclass(frozen=True)
class Interval:
    """An interval of values that hold with the stated confidence."""

    low: float
    high: float


def bootstrap(
    results: Mapping[str, AdditiveResult],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Percentile bootstrap over pairs (Efron 1979), the same resamples for every metric.

    Returns:
        For each metric and value its interval; empty where there is one pair alone, which says
        nothing of another sample.
    """
    if not results or _pairs(results) < 2:
        return {name: {} for name in results}
    drawn: dict[str, list[dict[str, Floats]]] = {name: [] for name in results}
    for counts in _resamples(_pairs(results), resamples, seed):
        for name, result in results.items():
            drawn[name].append(result.combine(counts @ result.sums))
    tail = 100 * (1 - level) / 2
    return {
        name: {
            value: Interval(*map(float, np.percentile(samples, [tail, 100 - tail])))
            for value, samples in _joined(blocks).items()
        }
        for name, blocks in drawn.items()
    }


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same pairs.

    Attributes:
        difference: value of the first minus value of the second.
        interval: bootstrap interval of the difference; nothing where there is one pair alone.
        p_bootstrap: two-sided p-value from the paired bootstrap.
        p_randomisation: two-sided p-value from approximate randomisation.
    """

    difference: float
    interval: Interval | None
    p_bootstrap: float
    p_randomisation: float


def compare(
    first: Mapping[str, AdditiveResult],
    second: Mapping[str, AdditiveResult],
    values: Mapping[str, Sequence[str]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two models' results on the same pairs in the same order.

    The interval is a paired bootstrap (Koehn, EMNLP 2004): both models on the same resample. The
    p-value of randomisation (Noreen 1989; Riezler and Maxwell 2005) is the share of random swaps of
    the two models' outputs, pair by pair, that give at least the observed difference.

    Args:
        first: results of one model.
        second: results of the other.
        values: for each metric to compare, the names of its values.
        resamples: number of resamples and of swaps.
        level: confidence of the interval.
        seed: of the random numbers.

    Returns:
        A difference for each ``metric/value``.

    Raises:
        MetricError: the two have different numbers of pairs.
    """
    pairs = _pairs(first)
    if pairs != _pairs(second):
        raise MetricError(
            f"{pairs} pairs against {_pairs(second)}",
            remedy="Compare results on the same pairs",
            kind="length_mismatch",
        )
    observed = {
        f"{name}/{value}": first[name].values[value] - second[name].values[value]
        for name, chosen in values.items()
        for value in chosen
    }
    boot: dict[str, list[dict[str, Floats]]] = {name: [] for name in values}
    for counts in _resamples(pairs, resamples, seed):
        for name, chosen in values.items():
            a = first[name].combine(counts @ first[name].sums)
            b = second[name].combine(counts @ second[name].sums)
            boot[name].append(_minus(a, b, chosen))
    swapped: dict[str, list[dict[str, Floats]]] = {name: [] for name in values}
    for swaps in _swaps(pairs, resamples, seed + 1):
        for name, chosen in values.items():
            mine, theirs = _aligned(first[name], second[name])
            moved = swaps @ (theirs - mine)
            a = first[name].combine(mine.sum(axis=0) + moved)
            b = first[name].combine(theirs.sum(axis=0) - moved)
            swapped[name].append(_minus(a, b, chosen))

    tail = 100 * (1 - level) / 2
    differences = {}
    for name, chosen in values.items():
        resampled, randomised = _joined(boot[name]), _joined(swapped[name])
        for value in chosen:
            seen, samples = observed[f"{name}/{value}"], resampled[value]
            low, high = map(float, np.percentile(samples, [tail, 100 - tail]))
            below, above = (samples <= 0).sum(), (samples >= 0).sum()
            as_large = (np.abs(randomised[value]) >= abs(seen) - 1e-12).sum()
            differences[f"{name}/{value}"] = Difference(
                difference=seen,
                interval=Interval(low, high) if pairs > 1 else None,
                p_bootstrap=float(min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))),
                p_randomisation=float((as_large + 1) / (resamples + 1)),
            )
    return differences


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


def _pairs(results: Mapping[str, AdditiveResult]) -> int:
    return len(next(iter(results.values())).sums)


def _resamples(pairs: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of rows [some, pairs]: how often each pair is in a resample."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // pairs)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, pairs, size=(size, pairs))
        drawn += pairs * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * pairs)
        yield counts.reshape(size, pairs).astype(np.float64)


def _swaps(pairs: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of rows [some, pairs]: one where a pair's two outputs change places."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // pairs)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield generator.integers(0, 2, size=(size, pairs)).astype(np.float64)


def _aligned(first: AdditiveResult, second: AdditiveResult) -> tuple[Floats, Floats]:
    """Statistics of both models in columns of one meaning.

    The columns of a metric mean the same in every result, but for the last of RadGraph's, which
    count the entity types seen in a model's texts and enter no value that is compared.
    """
    columns = min(first.sums.shape[1], second.sums.shape[1])
    mine, theirs = first.sums, second.sums[:, :columns]
    if theirs.shape[1] < mine.shape[1]:
        theirs = np.hstack([theirs, np.zeros((len(theirs), mine.shape[1] - theirs.shape[1]))])
    return mine, theirs


def _minus(
    a: Mapping[str, Floats], b: Mapping[str, Floats], names: Sequence[str]
) -> dict[str, Floats]:
    return {name: a[name] - b[name] for name in names}


def _joined(blocks: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
