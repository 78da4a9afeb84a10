"""Bootstrap intervals, paired tests and their correction, for metrics and probes alike.

The unit that is drawn is the patient, with all its studies: studies of one patient are alike, and
an interval that takes them for independent is too narrow. A resample is a row of counts, a metric's
value on it follows from the counts and the metric's additive statistics: a thousand resamples of
every metric are one matrix product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import MetricError

Floats = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
SIGNIFICANT = 0.05
_BLOCK = 4_000_000  # numbers in memory at once
_NEVER = 1e-30  # a probability too small to matter in a sum


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
class Units:
    """What a resample draws: patients, each with all its studies.

    A study whose patient is not known is a unit of its own.

    Attributes:
        index: the unit of each study [studies], from 0.
        count: of the units.
        unnamed: studies whose patient is not known.
    """

    index: NDArray[np.int64]
    count: int
    unnamed: int

    @classmethod
    def of(cls, patients: Sequence[str | None]) -> "Units":
        """Units of studies, by the patient of each; None or blank where it is not known.

        Patients are numbered in the order of their ids, so that the order of the studies does not
        matter.
        """
        names = sorted({patient for patient in patients if patient and patient.strip()})
        number = {name: i for i, name in enumerate(names)}
        index, count = [], len(names)
        for patient in patients:
            if patient in number:
                index.append(number[patient])
            else:
                index.append(count)
                count += 1
        return cls(np.array(index, dtype=np.int64), count, count - len(names))

    @property
    def name(self) -> str:
        """What a unit is called: ``patient``, or ``study`` where no patient is known."""
        return "study" if self.unnamed == len(self.index) else "patient"

    @property
    def plural(self) -> str:
        """What several units are called."""
        return "studies" if self.name == "study" else "patients"

    def __str__(self) -> str:
        if self.name == "study":
            return f"{_counted(self.count, 'study', 'studies')} (no patient ids)"
        said = _counted(self.count - self.unnamed, "patient", "patients")
        if self.unnamed:
            said += f" and {_counted(self.unnamed, 'study', 'studies')} without patient id"
        return said

    def on(self, studies: NDArray[np.int64]) -> "Units":
        """The units of some of the studies, given by their places [some]."""
        kept, index = np.unique(self.index[studies], return_inverse=True)
        unnamed = int((kept >= self.count - self.unnamed).sum())
        return Units(index.astype(np.int64), len(kept), unnamed)

    def draws(self, resamples: int, seed: int) -> Iterator[Floats]:
        """Blocks of rows [some, units]: how often each unit is in a resample."""
        generator = np.random.default_rng(seed)
        for size in self._blocks(resamples):
            drawn = generator.integers(0, self.count, size=(size, self.count))
            drawn += self.count * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * self.count)
            yield counts.reshape(size, self.count).astype(np.float64)

    def swaps(self, resamples: int, seed: int) -> Iterator[Floats]:
        """Blocks of rows [some, units]: one where a unit's two outputs change places."""
        generator = np.random.default_rng(seed)
        for size in self._blocks(resamples):
            yield generator.integers(0, 2, size=(size, self.count)).astype(np.float64)

    def sums(self, rows: Floats) -> Floats:
        """Additive statistics of studies [studies, columns], summed by unit [units, columns]."""
        found = np.zeros((self.count, rows.shape[1]))
        np.add.at(found, self.index, rows)
        return found

    def _blocks(self, resamples: int) -> Iterator[int]:
        rows = max(1, _BLOCK // max(1, len(self.index)))
        for start in range(0, resamples, rows):
            yield min(rows, resamples - start)


@dataclass(frozen=True)
class Interval:
    """An interval of values that hold with the stated confidence.

    Attributes:
        low: its lower end.
        high: its upper end.
        median: of the resamples, which some tables print in place of the value; None where the
            resamples are not at hand.
    """

    low: float
    high: float
    median: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same patients.

    Attributes:
        difference: value of the first minus value of the second.
        interval: paired bootstrap interval of the difference; None where it cannot be told.
        p_bootstrap: two-sided p-value from the paired bootstrap.
        p_randomisation: two-sided p-value from approximate randomisation; None where that was not
            done.
    """

    difference: float
    interval: Interval | None
    p_bootstrap: float
    p_randomisation: float | None = None

    @property
    def p(self) -> float:
        """The p-value to read: of randomisation, where that was done."""
        return self.p_bootstrap if self.p_randomisation is None else self.p_randomisation


def percentile_interval(samples: Floats, units: Units, level: float = LEVEL) -> Interval | None:
    """Percentile bootstrap (Efron 1979).

    Args:
        samples: a value on each resample; NaN where it has none.
        units: that were drawn.
        level: confidence.

    Returns:
        None where there is one unit alone, which says nothing of another sample, or no value.
    """
    known = samples[~np.isnan(samples)]
    if units.count < 2 or not len(known):
        return None
    tail = 100 * (1 - level) / 2
    low, median, high = np.percentile(known, [tail, 50, 100 - tail])
    return Interval(float(low), float(high), float(median))


def paired_difference(
    seen: float,
    samples: Floats,
    units: Units,
    *,
    level: float = LEVEL,
    randomised: Floats | None = None,
) -> Difference:
    """A difference with its interval and p-values.

    Args:
        seen: the difference on all studies.
        samples: the same on each resample, both models on the same one (Koehn, EMNLP 2004).
        units: that were drawn and swapped.
        level: confidence of the interval.
        randomised: the same after random swaps of the two models' outputs (Noreen 1989; Riezler
            and Maxwell 2005).
    """
    known = samples[~np.isnan(samples)]
    tail = min((known <= 0).sum(), (known >= 0).sum())
    p_bootstrap = float(min(1.0, 2 * (tail + 1) / (len(known) + 1)))
    p_randomisation = None
    if randomised is not None:
        as_large = (np.abs(randomised) >= abs(seen) - 1e-12).sum()
        p_randomisation = float((as_large + 1) / (len(randomised) + 1))
    interval = percentile_interval(samples, units, level)
    return Difference(seen, interval, 1.0 if interval is None else p_bootstrap, p_randomisation)


def bootstrap(
    results: Mapping[str, AdditiveResult],
    units: Units | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Intervals of metrics, the same resamples for all of them.

    Args:
        results: of the metrics on the same pairs.
        units: of the pairs, in their order; without it each pair is its own.
        resamples: of the units.
        level: confidence of the intervals.
        seed: of the resamples.

    Returns:
        For each metric and value its interval; empty where there is one unit alone.
    """
    units = _units(results, units)
    if units.count < 2:
        return {name: {} for name in results}
    sums = {name: units.sums(result.sums) for name, result in results.items()}
    drawn: dict[str, list[dict[str, Floats]]] = {name: [] for name in results}
    for counts in units.draws(resamples, seed):
        for name, result in results.items():
            drawn[name].append(result.combine(counts @ sums[name]))
    return {
        name: {
            value: interval
            for value, samples in _joined(blocks).items()
            if (interval := percentile_interval(samples, units, level)) is not None
        }
        for name, blocks in drawn.items()
    }


def compare(
    first: Mapping[str, AdditiveResult],
    second: Mapping[str, AdditiveResult],
    values: Mapping[str, Sequence[str]],
    units: Units | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two models' results on the same pairs in the same order.

    The p-value of randomisation is the share of random swaps of the two models' outputs, patient
    by patient, that give at least the observed difference.

    Args:
        first: results of one model.
        second: results of the other.
        values: for each metric to compare, the names of its values.
        units: of the pairs, in their order; without it each pair is its own.
        resamples: number of resamples and of swaps.
        level: confidence of the interval.
        seed: of the random numbers.

    Returns:
        A difference for each ``metric/value``.

    Raises:
        MetricError: the two, or the units, have different numbers of pairs.
    """
    units = _units(first, units)
    _units(second, units)
    sums = {}
    for name in values:
        mine, theirs = _aligned(first[name], second[name])
        sums[name] = units.sums(mine), units.sums(theirs)
    boot: dict[str, list[dict[str, Floats]]] = {name: [] for name in values}
    for counts in units.draws(resamples, seed):
        for name, chosen in values.items():
            mine, theirs = (counts @ part for part in sums[name])
            boot[name].append(_minus(first[name], mine, theirs, chosen))
    swapped: dict[str, list[dict[str, Floats]]] = {name: [] for name in values}
    for swaps in units.swaps(resamples, seed + 1):
        for name, chosen in values.items():
            mine, theirs = sums[name]
            moved = swaps @ (theirs - mine)
            a, b = mine.sum(axis=0) + moved, theirs.sum(axis=0) - moved
            swapped[name].append(_minus(first[name], a, b, chosen))
    differences = {}
    for name, chosen in values.items():
        resampled, randomised = _joined(boot[name]), _joined(swapped[name])
        for value in chosen:
            differences[f"{name}/{value}"] = paired_difference(
                first[name].values[value] - second[name].values[value],
                resampled[value],
                units,
                level=level,
                randomised=randomised[value],
            )
    return differences


def proportion_intervals(
    hits: Floats, chances: Floats, level: float = LEVEL
) -> list[Interval | None]:
    """Intervals of proportions whose cases come in units: Wilson's (1927), for clustered cases.

    A bootstrap of no hit among twelve is the interval from 0 to 0; Wilson's is not. Cases of one
    unit are alike, so the number of cases is divided by the design effect (Kish 1965): the variance
    between units over that of independent cases, at least 1. Where all cases or none are hits, no
    variance can be seen, and each unit counts once. With one case a unit this is Wilson's interval.

    Args:
        hits: of each unit, in columns of one proportion each [units, columns].
        chances: cases of each unit [units, columns]; a unit may have none.
        level: confidence of the intervals.

    Returns:
        One for each column; None where fewer than two units have a case.
    """
    cases, found = chances.sum(axis=0), hits.sum(axis=0)
    units = (chances > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = found / cases
        between = ((hits - share * chances) ** 2).sum(axis=0) * units / (units - 1)
        alone = cases * share * (1 - share) * cases / (cases - 1)
        effect = np.where(alone > 0, between / alone, cases / units)
        size = cases / np.maximum(effect, 1)
        z = NormalDist().inv_cdf((1 + level) / 2)
        centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
        reach = np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)) * z / (1 + z**2 / size)
    low = np.where(found == 0, 0.0, np.maximum(centre - reach, 0))
    high = np.where(found == cases, 1.0, np.minimum(centre + reach, 1))
    return _where_two(units, low, high)


def paired_proportion_intervals(
    gains: Floats, chances: Floats, level: float = LEVEL
) -> list[Interval | None]:
    """Intervals of the difference of two proportions of the same cases, which come in units.

    Wald's interval after half a case is added to each of the four outcomes of a pair (Agresti and
    Min 2005), with the variance between units: it has a length where no case differs, and with one
    case a unit it is theirs.

    Args:
        gains: hits of the first less hits of the second, of each unit [units, columns].
        chances: cases of each unit [units, columns]; a unit may have none.
        level: confidence of the intervals.

    Returns:
        One for each column; None where fewer than two units have a case.
    """
    cases = chances.sum(axis=0) + 2
    centre = gains.sum(axis=0) / cases
    added = 1 + 2 * centre**2  # the squares of what was added, about the centre
    spread = ((gains - centre * chances) ** 2).sum(axis=0) + added
    reach = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(spread) / cases
    low, high = np.maximum(centre - reach, -1), np.minimum(centre + reach, 1)
    return _where_two((chances > 0).sum(axis=0), low, high)


def swap_p_value(gains: Floats) -> float:
    """Two-sided p-value of a sum of whole numbers under all swaps of two models, unit by unit.

    What :func:`compare` draws by chance is summed here over all swaps, exactly: each unit's gain
    changes its sign or not. With gains of 1 and -1 alone it is McNemar's exact test.

    Args:
        gains: whole numbers [units].

    Returns:
        In (0, 1]; 1 where no unit differs.
    """
    sizes, counts = np.unique(np.abs(gains[gains != 0]).astype(np.int64), return_counts=True)
    chance, first = np.ones(1), 0  # of each sum of the gains that are taken as positive
    for size, count in zip(sizes, counts, strict=True):
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
        likely = np.exp(logs[-1] - logs - logs[::-1] - count * np.log(2))
        kept = np.flatnonzero(likely > _NEVER)
        spaced = np.zeros((kept[-1] - kept[0]) * size + 1)
        spaced[::size] = likely[kept[0] : kept[-1] + 1]
        chance, first = np.convolve(chance, spaced), first + int(kept[0] * size)
    total = int((sizes * counts).sum())
    sums = 2 * (first + np.arange(len(chance))) - total
    found = float(chance[np.abs(sums) >= abs(gains.sum()) - 0.5].sum())
    # What was seen and its reverse are among the swaps, however unlikely each is.
    least = 2.0 ** (1 - min(int(counts.sum()), 1074))
    return min(1.0, max(found, least))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


def _where_two(units: NDArray[np.int64], low: Floats, high: Floats) -> list[Interval | None]:
    return [
        Interval(float(a), float(b)) if count >= 2 else None
        for count, a, b in zip(units, low, high, strict=True)
    ]


def _units(results: Mapping[str, AdditiveResult], units: Units | None) -> Units:
    pairs = len(next(iter(results.values())).sums) if results else 0
    if units is None:
        return Units.of([None] * pairs)
    if len(units.index) != pairs:
        raise MetricError(
            f"{len(units.index)} pairs against {pairs}",
            remedy="Compare results on the same pairs",
            kind="length_mismatch",
        )
    return units


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
    metric: AdditiveResult, mine: Floats, theirs: Floats, names: Sequence[str]
) -> dict[str, Floats]:
    a, b = metric.combine(mine), metric.combine(theirs)
    return {name: a[name] - b[name] for name in names}


def _joined(blocks: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
