"""F1, precision and recall of observations found in two texts, under every policy in use.

Published numbers of one model differ by as much as their claimed gains because a table does not
say which of these was taken, so all are given, each under its own name
``POLICY/GROUP/AVERAGE/MEASURE``:

- policy: an uncertain mention counts as the observation (``uncertain_positive``, as CheXbert's and
  f1chexbert's report scores do) or as its absence (``uncertain_negative``);
- group: all ``14`` observations or the ``5`` of CheXpert's competition;
- average: ``micro`` (pooled counts), ``macro`` (mean over classes), ``weighted`` (mean over classes
  by support), ``samples`` (mean over reports, also called example-based);
- measure: ``precision``, ``recall``, ``f1``, all in [0, 1]; anything over zero is 0, so a report
  without observations that got none has a samples F1 of 0, as in scikit-learn and f1chexbert.

``POLICY/GROUP/exact_match`` is the share of reports with every observation of the group right, and
``POLICY/class/OBSERVATION/...`` gives one observation's measures and its ``support``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.metrics.result import Floats, MetricResult, harmonic, ratio
from llava_rad.observations import FIVE, OBSERVATIONS, Mention

POLICIES = ("uncertain_positive", "uncertain_negative")
GROUPS: dict[str, tuple[str, ...]] = {"14": OBSERVATIONS, "5": FIVE}
MEASURES = ("precision", "recall", "f1")


def label_f1(
    metric: str,
    predicted: NDArray[np.integer],
    expected: NDArray[np.integer],
    *,
    facts: dict[str, Any],
    notes: Sequence[str] = (),
    classes: Sequence[str] = OBSERVATIONS,
    groups: Mapping[str, Sequence[str]] = GROUPS,
    empty: NDArray[np.bool_] | None = None,
) -> MetricResult:
    """Compare the observations of predictions with those of references.

    Args:
        metric: name of the result.
        predicted: what each prediction says of each class [pairs, classes], as
            :class:`~llava_rad.observations.Mention`.
        expected: the same of the references.
        facts: goes into the result, together with the definitions used here.
        notes: warnings that go into the result.
        classes: names of the columns.
        groups: sets of classes to average over, by name.
        empty: mask [pairs] of pairs with an empty text, which match nothing.

    Returns:
        The values the module's docstring names; those with the average ``samples`` and
        ``exact_match`` also for each pair.
    """
    pairs, count = len(predicted), len(classes)
    columns = {name: [list(classes).index(c) for c in group] for name, group in groups.items()}
    blocks: list[Floats] = []
    per_pair: dict[str, Floats] = {}
    for policy in POLICIES:
        mine, theirs = _binary(predicted, policy), _binary(expected, policy)
        blocks += [block.astype(np.float64) for block in (mine & theirs, mine, theirs)]
        for group, chosen in columns.items():
            a, b = mine[:, chosen], theirs[:, chosen]
            hits = (a & b).sum(axis=1)
            precision, recall = ratio(hits, a.sum(axis=1)), ratio(hits, b.sum(axis=1))
            exact = (a == b).all(axis=1)
            if empty is not None:
                exact = exact & ~empty
            of_pair = {
                f"{policy}/{group}/samples/precision": precision,
                f"{policy}/{group}/samples/recall": recall,
                f"{policy}/{group}/samples/f1": harmonic(precision, recall),
                f"{policy}/{group}/exact_match": exact.astype(np.float64),
            }
            per_pair.update(of_pair)
    sums = np.column_stack([*blocks, *per_pair.values(), np.ones(pairs)])
    means = list(per_pair)

    def combine(totals: Floats) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for p, policy in enumerate(POLICIES):
            hits, mine, theirs = (
                totals[..., (3 * p + i) * count : (3 * p + i + 1) * count] for i in range(3)
            )
            by_class = _measures(hits, mine, theirs)
            for group, chosen in columns.items():
                pooled = [part[..., chosen].sum(axis=-1) for part in (hits, mine, theirs)]
                support = theirs[..., chosen]
                for measure, micro in _measures(*pooled).items():
                    of_class = by_class[measure][..., chosen]
                    weighted = ratio((of_class * support).sum(axis=-1), support.sum(axis=-1))
                    values[f"{policy}/{group}/micro/{measure}"] = micro
                    values[f"{policy}/{group}/macro/{measure}"] = of_class.mean(axis=-1)
                    values[f"{policy}/{group}/weighted/{measure}"] = weighted
            for i, name in enumerate(classes):
                for measure in MEASURES:
                    values[f"{policy}/class/{name}/{measure}"] = by_class[measure][..., i]
                values[f"{policy}/class/{name}/support"] = theirs[..., i]
        for i, name in enumerate(means):
            values[name] = totals[..., 6 * count + i] / np.maximum(totals[..., -1], 1)
        return values

    definitions = {
        "uncertain": "both policies, by name",
        "averages": "micro, macro, weighted, samples, by name",
        "zero_division": 0,
        "range": "0-1",
    }
    return MetricResult(metric, per_pair, sums, combine, {**facts, **definitions}, tuple(notes))


def stated_labels(
    result: MetricResult, policy: str, classes: int = len(OBSERVATIONS)
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What each prediction and each reference of a :func:`label_f1` states under a policy.

    Args:
        result: of :func:`label_f1`, or of such a one joined with another.
        policy: one of :data:`POLICIES`.
        classes: how many there are.

    Returns:
        Of the predictions and of the references, [pairs, classes] each.
    """
    first = 3 * POLICIES.index(policy) * classes  # hits, predictions, references
    mine, theirs = (
        result.sums[:, first + part * classes : first + (part + 1) * classes] > 0 for part in (1, 2)
    )
    return mine, theirs


def _binary(mentions: NDArray[np.integer], policy: str) -> NDArray[np.bool_]:
    positive = mentions == Mention.POSITIVE
    return positive | (mentions == Mention.UNCERTAIN) if policy == POLICIES[0] else positive


def _measures(hits: Floats, mine: Floats, theirs: Floats) -> dict[str, Floats]:
    precision, recall = ratio(hits, mine), ratio(hits, theirs)
    return {"precision": precision, "recall": recall, "f1": harmonic(precision, recall)}
