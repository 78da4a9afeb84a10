"""RadGraph F1: overlap of the clinical entities and relations of two reports, in [0, 1].

Delbrouck et al., Findings of EMNLP 2022, as the package ``radgraph`` 0.1.18 scores it: a mean over
pairs of the F1 of two sets, at three levels.

- ``simple``: entities as (words, label);
- ``partial``: the same, and whether the entity has a relation;
- ``complete``: entities without relations as (words, label), the others once for each relation, as
  (words, label, relation, words of the target).

``radgraph_f1`` is the F1 at the level ``partial``, which most tables print under this name.

A pair in which one report is empty or has no entities scores 0. ``casing="published"`` compares as
the released package does, with capitals everywhere but in relations, where 'Large' is not 'large';
``casing="lowercase"`` ignores capitals, as the package's later versions do. Tables made from
lower-cased reports are the same in both.

``type/LABEL/...`` pools the simple level's counts over all pairs for one label, such as
``OBS-DA`` (observation, definitely absent).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llava_rad.errors import MetricError
from llava_rad.metrics.annotator import Annotation, RadGraphAnnotator, package_version
from llava_rad.metrics.result import (
    Details,
    Floats,
    MetricResult,
    check_pairs,
    harmonic,
    join_results,
    mean_result,
    ratio,
)

LEVELS = ("simple", "partial", "complete")
PUBLISHED_LEVEL = "partial"
CASINGS = ("lowercase", "published")


def radgraph_f1(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    annotator: RadGraphAnnotator,
    casing: str = "lowercase",
) -> MetricResult:
    """RadGraph precision, recall and F1 at the three levels, and by entity type.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        annotator: the network that finds entities and relations.
        casing: ``"lowercase"`` or ``"published"``, see the module's docstring.

    Returns:
        Values ``radgraph_f1``, ``LEVEL/precision``, ``LEVEL/recall``, ``LEVEL/f1`` and
        ``type/LABEL/...``; the details of a pair are its matched, missed and invented entities.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    annotator.prepare([*predictions, *references])
    return score_annotations(
        annotator.each(predictions),
        annotator.each(references),
        casing=casing,
        facts={
            "scorer": f"radgraph {package_version()}, rewards of llava_rad",
            "model": annotator.model_type,
            "checkpoint_sha256": annotator.checkpoint_hash,
        },
    )


def score_annotations(
    predicted: Iterable[Annotation],
    expected: Iterable[Annotation],
    *,
    casing: str = "lowercase",
    facts: dict[str, Any] | None = None,
) -> MetricResult:
    """The same from annotations in the package's form, of the pairs one after the other.

    Raises:
        MetricError: ``casing`` is not known, or an annotation lacks a field.
    """
    if casing not in CASINGS:
        raise MetricError(
            f"there is no casing '{casing}'",
            remedy=f"Choose one of {', '.join(CASINGS)}",
            kind="unknown_casing",
        )
    lower = casing == "lowercase"
    values: dict[str, list[float]] = {f"{lv}/{m}": [] for lv in LEVELS for m in _MEASURES}
    counts: list[dict[str, list[int]]] = []
    details = Details()
    for mine, theirs in zip(predicted, expected, strict=True):
        for level in LEVELS:
            scores = _overlap(
                _facts(mine, level, lower), _facts(theirs, level, lower), mine, theirs
            )
            for measure, value in zip(_MEASURES, scores, strict=True):
                values[f"{level}/{measure}"].append(value)
        counts.append(_by_type(mine, theirs, lower))
        details.append(_compare(mine, theirs, lower))
    facts = {
        **(facts or {}),
        "casing": casing,
        "levels": "by name",
        "radgraph_f1": f"level {PUBLISHED_LEVEL}",
        "range": "0-1",
    }
    per_pair = {"radgraph_f1": values[f"{PUBLISHED_LEVEL}/f1"], **values}
    means = mean_result("radgraph", per_pair, facts=facts, details=details)
    return join_results(means, _pool_types(counts))


_MEASURES = ("precision", "recall", "f1")


def _words(entity: dict[str, Any], lower: bool) -> str:
    return entity["tokens"].lower() if lower else entity["tokens"]


def _facts(annotation: Annotation, level: str, lower: bool) -> set[tuple[Any, ...]]:
    """What a report states, as a set."""
    entities = annotation["entities"]
    facts: set[tuple[Any, ...]] = set()
    for entity in entities.values():
        words, label, relations = _words(entity, lower), entity["label"], entity["relations"]
        if level == "simple" or not relations:
            facts.add((words, label))
        elif level == "partial":
            facts.add((words, label, True))
        else:
            for relation, target in relations:
                # Relations are compared without capitals in both casings, as published.
                to = entities[target]["tokens"].lower()
                facts.add((entity["tokens"].lower(), label, relation, to))
    return facts


def _overlap(
    mine: set[Any], theirs: set[Any], predicted: Annotation, expected: Annotation
) -> tuple[float, float, float]:
    if not predicted["entities"] or not expected["entities"]:
        return 0.0, 0.0, 0.0
    shared = len(mine & theirs)
    precision, recall = shared / len(mine), shared / len(theirs)
    return precision, recall, float(harmonic(precision, recall))


def _by_type(mine: Annotation, theirs: Annotation, lower: bool) -> dict[str, list[int]]:
    """For each label: shared facts, facts of the prediction, facts of the reference."""
    counts: dict[str, list[int]] = {}
    predicted, expected = _facts(mine, "simple", lower), _facts(theirs, "simple", lower)
    for column, facts in enumerate((predicted & expected, predicted, expected)):
        for fact in facts:
            counts.setdefault(fact[1], [0, 0, 0])[column] += 1
    return counts


def _pool_types(counts: list[dict[str, list[int]]]) -> MetricResult:
    labels = sorted({label for pair in counts for label in pair})
    sums = np.array(
        [[n for label in labels for n in pair.get(label, (0, 0, 0))] for pair in counts],
        dtype=np.float64,
    ).reshape(len(counts), 3 * len(labels))

    def combine(totals: Floats) -> dict[str, Floats]:
        values = {}
        for i, label in enumerate(labels):
            shared, mine, theirs = (totals[..., 3 * i + column] for column in range(3))
            precision, recall = ratio(shared, mine), ratio(shared, theirs)
            values[f"type/{label}/precision"] = precision
            values[f"type/{label}/recall"] = recall
            values[f"type/{label}/f1"] = harmonic(precision, recall)
            values[f"type/{label}/support"] = theirs
        return values

    return MetricResult("radgraph", {}, sums, combine)


def _compare(mine: Annotation, theirs: Annotation, lower: bool) -> dict[str, Any]:
    """The entities of both texts, each with its place and its fate at the simple level."""
    predicted, expected = _facts(mine, "simple", lower), _facts(theirs, "simple", lower)

    def marked(annotation: Annotation, others: set[Any], otherwise: str) -> list[dict[str, Any]]:
        return [
            {
                "text": entity["tokens"],
                "label": entity["label"],
                "start": entity["start_ix"],
                "end": entity["end_ix"],
                "fate": "matched"
                if (_words(entity, lower), entity["label"]) in others
                else otherwise,
            }
            for entity in annotation["entities"].values()
        ]

    return {
        "prediction": {"tokens": mine["text"], "entities": marked(mine, expected, "invented")},
        "reference": {"tokens": theirs["text"], "entities": marked(theirs, predicted, "missed")},
    }
