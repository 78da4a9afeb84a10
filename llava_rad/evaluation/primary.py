"""One primary metric, declared before the numbers are seen; all others are exploratory.

Corrected for the number of some dozens of correlated values, a clear gain is easily 'not shown';
picked afterwards among them, chance easily is. So the primary value is tested alone, and the
exploratory ones are corrected among themselves (Holm).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava_rad.errors import ConfigError, MetricError
from llava_rad.metrics.result import MetricResult
from llava_rad.metrics.score import HEADLINES, Scorer, Scores
from llava_rad.statistics import Difference, Units, compare, holm

PRIMARY = "chexpert_rules/uncertain_positive/14/micro/f1"
"""The primary value where none is declared, as ``metric/value``."""


@dataclass(frozen=True)
class PairedTest:
    """One value of two models on the same studies.

    Attributes:
        difference: first minus second, with its interval and p-values.
        p: two-sided p-value of randomisation; of an exploratory value, corrected for the number of
            exploratory values (Holm).
        primary: whether it is the declared one.
    """

    difference: Difference
    p: float
    primary: bool

    @property
    def role(self) -> str:
        """``primary`` or ``exploratory``."""
        return "primary" if self.primary else "exploratory"


def metric_of(primary: str) -> str:
    """The metric that a value ``metric/value`` belongs to.

    Raises:
        ConfigError: no table shows such a value.
    """
    metric, _, value = primary.partition("/")
    if value in HEADLINES.get(metric, ()):
        return metric
    values = [f"{name}/{value}" for name, values in HEADLINES.items() for value in values]
    near = [known for known in values if known.split("/")[0] == metric] or values
    raise ConfigError(
        f"there is no value '{primary}'",
        where="primary",
        remedy=f"Declare one of {', '.join(near)}",
        kind="unknown_primary",
    )


def with_primary(scorer: Scorer, primary: str) -> Scorer:
    """A scorer that also computes the primary value's metric.

    Raises:
        ConfigError: no table shows such a value, or the scorer has no metrics.
    """
    if not scorer.metrics:
        raise ConfigError("no metric is named", remedy="Name at least one", kind="no_metrics")
    return scorer.only((*scorer.metrics, metric_of(primary)))


def require_computed(
    scores: Scores,
    asked: Sequence[str],
    primary: str,
    where: object = None,
    *,
    by_preset: bool = False,
) -> None:
    """Refuse to go on without any metric that was asked for, or without a value that was declared.

    The default primary value is passed over: reports in other languages have no chexpert-rules, and
    what is printed of them says that nothing was tested. So is a preset's (``by_preset``), whose
    other columns stand without it.

    Raises:
        MetricError: none of the metrics, or not the declared value's, was computed.
    """
    if not any(name in scores.results for name in asked):
        raise MetricError(
            "no metric could be computed: "
            + "; ".join(reason.rstrip(".") for reason in scores.left_out.values()),
            where=where,
            remedy="Fetch the weights, or choose metrics that need none",
            kind="nothing_computed",
        )
    metric = metric_of(primary)
    if primary != PRIMARY and not by_preset and metric not in scores.results:
        raise MetricError(
            f"it was not computed: {scores.left_out[metric].rstrip('.')}",
            where=f"primary {primary}",
            remedy="Fetch the weights, or declare another value",
            kind="no_primary",
        )


def shown_values(
    results: Mapping[str, MetricResult], asked: Sequence[str], primary: str
) -> dict[str, tuple[str, ...]]:
    """Values that tables show of each metric, the primary one first.

    Args:
        results: by metric.
        asked: the metrics that were asked for; of the primary one's, if it is not among them, the
            primary value alone is shown.
        primary: ``metric/value``.
    """
    first = metric_of(primary)
    shown: dict[str, tuple[str, ...]] = {}
    for name in sorted(results, key=lambda name: name != first):
        values = HEADLINES[name]
        if name == first:
            chosen = primary.partition("/")[2]
            others = [value for value in values if value != chosen and name in asked]
            values = (chosen, *others)
        shown[name] = values
    return shown


def paired_tests(
    first: Mapping[str, MetricResult],
    second: Mapping[str, MetricResult],
    values: Mapping[str, Sequence[str]],
    units: Units,
    *,
    primary: str,
    resamples: int,
    seed: int,
) -> dict[str, PairedTest]:
    """Compare two models' values: the primary one alone, the others corrected among themselves.

    Args:
        first: results of one model by metric.
        second: of the other, on the same studies in the same order.
        values: of each metric, from :func:`shown_values`.
        units: that are drawn and swapped.
        primary: ``metric/value``.
        resamples: of the bootstrap and of randomisation.
        seed: of both.

    Returns:
        By ``metric/value``, in the order of ``values``.

    Raises:
        MetricError: the two have different numbers of studies.
    """
    found = compare(first, second, values, units, resamples=resamples, seed=seed)
    p_values = {key: difference.p for key, difference in found.items()}
    exploratory = [key for key in found if key != primary]
    corrected = dict(zip(exploratory, holm([p_values[key] for key in exploratory]), strict=True))
    return {
        key: PairedTest(difference, corrected.get(key, p_values[key]), key == primary)
        for key, difference in found.items()
    }
