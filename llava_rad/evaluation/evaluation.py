"""Everything that is said about one file of predictions, gathered once for terminal, JSON and page.

Beside each result stand the baselines that make it readable, results on normal and on abnormal
references, and how varied the outputs are: a model that writes one normal report for every film can
still have a fair BLEU.
"""

import itertools
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import llava_rad
from llava_rad.boxes import Box
from llava_rad.data.deidentification import has_marks
from llava_rad.data.targets import SECTIONS, Section
from llava_rad.errors import ConfigError, MetricError, shown
from llava_rad.evaluation.baselines import (
    FixedReport,
    best_fixed_report,
    fixed_report_candidates,
    nearest,
    other_patients,
    score_each,
)
from llava_rad.evaluation.boxes import BoxEvaluation, evaluate_boxes
from llava_rad.evaluation.labels import metric_label
from llava_rad.evaluation.normal_references import normal_references
from llava_rad.evaluation.observation_errors import (
    ErrorMatrix,
    error_matrix,
    stated_observations,
)
from llava_rad.evaluation.predictions import Predictions
from llava_rad.evaluation.presets import AppliedPreset
from llava_rad.evaluation.primary import PRIMARY, require_computed, shown_values, with_primary
from llava_rad.evaluation.subgroups import find_subgroups
from llava_rad.file_keys import sha256
from llava_rad.grounded_text import MARK
from llava_rad.metrics.label_f1 import POLICIES
from llava_rad.metrics.language import foreign, is_english
from llava_rad.metrics.result import Floats, MetricResult, is_empty, json_number
from llava_rad.metrics.score import DEFINITIONS, JUDGED, Scorer, Scores, headline_values
from llava_rad.observations import OBSERVATIONS, Mention
from llava_rad.statistics import LEVEL, RESAMPLES, Interval, Units, bootstrap
from llava_rad.wording import counted, verb

_PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "evaluate",
    "sacrebleu",
    "rouge_score",
    "nltk",
    "radgraph",
)


@dataclass(frozen=True)
class Baselines:
    """What texts written without the image score on the same references.

    Attributes:
        fixed: for each headline the best single text for every study.
        fixed_from: where its candidates come from.
        other_patient: each study gets the reference of another patient; nothing where the file has
            one patient alone.
        nearest: each study gets the training report of the most similar features; nothing where
            no features were given.
    """

    fixed: dict[str, FixedReport]
    fixed_from: str
    other_patient: dict[str, MetricResult] | None
    nearest: dict[str, MetricResult] | None

    def headlines(self) -> dict[str, dict[str, float]]:
        """For each baseline that is there, its headline values."""
        found = {"fixed_report": {key: fixed.value for key, fixed in self.fixed.items()}}
        for name, results in (
            ("other_patient", self.other_patient),
            ("nearest_training_report", self.nearest),
        ):
            if results is not None:
                found[name] = headline_values(results)
        return found


@dataclass(frozen=True)
class Evaluation:
    """A file of predictions, scored.

    Attributes:
        predictions: the file.
        section: the part of the report that was generated.
        scores: the metrics.
        shown: the values of each metric that tables show, the primary one first.
        primary: the value that was declared to count, as ``metric/value``.
        intervals: for each metric and value its bootstrap interval.
        units: that were resampled: patients, or studies where no patient is known.
        baselines: scores of texts written without the image.
        normal: mask [pairs] of the references without a finding; nothing where it cannot be told.
        normal_by: how that was told, or why it was not.
        mentions: what chexpert-rules find in predictions and references [2, pairs, 14]; nothing
            where reports are not in English.
        distinct: different predictions, white space aside.
        most_common: the most frequent prediction and how often it comes.
        warnings: what a reader of the numbers must know.
        resamples: of the bootstrap.
        preset: the published convention that was followed, if one was.
        boxes: how the boxes agree, where the references have some.
    """

    predictions: Predictions
    section: str
    scores: Scores
    shown: dict[str, tuple[str, ...]]
    primary: str
    intervals: dict[str, dict[str, Interval]]
    units: Units
    baselines: Baselines
    normal: NDArray[np.bool_] | None
    normal_by: str
    mentions: NDArray[np.int64] | None
    distinct: int
    most_common: tuple[str, int]
    warnings: tuple[str, ...]
    resamples: int
    preset: AppliedPreset | None = None
    boxes: BoxEvaluation | None = None

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.predictions.rows)

    @cached_property
    def errors(self) -> tuple[ErrorMatrix, ...]:
        """Errors by subgroup under each policy, the primary value's first; none without labels.

        Patients are told apart whatever a preset resamples.
        """
        stated = stated_observations(self.scores.results, self.mentions, self.primary)
        subgroups = find_subgroups(self.predictions.rows, self.normal, self.normal_by)
        units = Units.of([row.patient for row in self.predictions.rows])
        return tuple(error_matrix(by, subgroups, units) for by in stated)

    def published(self) -> list[dict[str, Any]]:
        """The columns of the table whose convention was followed; empty without a preset."""
        return [] if self.preset is None else self.preset.rows(self.scores, self.intervals)

    def by_reference(self) -> dict[str, dict[str, float]]:
        """Headline values on the normal and on the abnormal references, where there are any."""
        if self.normal is None:
            return {}
        parts = {"normal": self.normal, "abnormal": ~self.normal}
        return {
            name: headline_values({m: r.on(mask) for m, r in self.scores.results.items()})
            for name, mask in parts.items()
            if mask.any()
        }

    def stated(self) -> NDArray[np.bool_] | None:
        """Whether prediction and reference state each observation, if unsurely [2, pairs, 14]."""
        if self.mentions is None:
            return None
        return (self.mentions == Mention.POSITIVE) | (self.mentions == Mention.UNCERTAIN)

    def observations(self, i: int) -> dict[str, list[str]]:
        """The observations of one pair that are matched, missed and invented."""
        stated = self.stated()
        if stated is None:
            return {}
        mine, theirs = stated[:, i]
        masks = {"matched": mine & theirs, "missed": theirs & ~mine, "invented": mine & ~theirs}
        return {
            fate: [name for name, found in zip(OBSERVATIONS, mask, strict=True) if found]
            for fate, mask in masks.items()
        }

    def pair_values(self, i: int) -> dict[str, float]:
        """The values of one pair that tables show, by ``metric/value``."""
        return {
            f"{name}/{value}": float(result.per_pair[value][i])
            for name, result in self.scores.results.items()
            for value in _PAIR_VALUES.get(name, self.shown[name])
        }


# A pair has no micro or macro average; its own is the one over its observations.
_SAMPLES = tuple(f"{policy}/14/samples/f1" for policy in POLICIES)
_PAIR_VALUES = {
    "chexpert_rules": _SAMPLES,
    "chexbert": (*_SAMPLES, "embedding_similarity"),
    "srr_bert": ("samples/f1",),
}


def evaluate_predictions(
    predictions: Predictions,
    scorer: Scorer,
    *,
    section: Section | None = None,
    primary: str = PRIMARY,
    training: Mapping[str, str] | None = None,
    features: Mapping[str, Floats] | None = None,
    training_boxes: Sequence[Box] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    preset: AppliedPreset | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Score predictions with intervals and baselines.

    Args:
        predictions: the file.
        scorer: the metrics.
        section: the part of the report that was generated; None is what the file says, or findings.
        primary: the value that counts, as ``metric/value``; it is computed whatever the metrics.
        training: training reports by id; the fixed report is chosen among them, else among the
            references, which flatters it.
        features: image features [dim] by id, of the file's studies and of training reports.
        training_boxes: of training studies, from which boxes are placed without looking.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the choice of other patients.
        preset: prepares the texts and says what is resampled, as a published table does.
        progress: told what is being done.

    Raises:
        ConfigError: there is no such primary value, no metric is named, or resamples are no number.
        MetricError: all references are blank, features lack a study, there is no such section,
            or no metric or not a required one can be computed.
        WeightsError: a required metric's weights are missing, or weights are damaged.
    """
    stated = predictions.sections
    if section is None:
        section = cast(Section, stated[0]) if len(stated) == 1 else "findings"
    if section not in SECTIONS:
        raise MetricError(
            f"there is no section {shown(section)}",
            where=predictions.path,
            remedy=f"Use one of {', '.join(SECTIONS)}",
            kind="unknown_section",
        )
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise ConfigError(
            f"resamples are {shown(resamples)}",
            remedy="Give a whole number from 1",
            kind="bad_option",
        )
    if preset is not None:
        predictions = preset.prepare(predictions)
    texts, references = predictions.predictions, predictions.references
    asked = scorer.metrics
    scorer = with_primary(scorer, primary)
    scores = scorer(texts, references, languages=predictions.languages, progress=progress)
    by_preset = preset is not None and primary == preset.preset.primary
    require_computed(scores, asked, primary, predictions.path, by_preset=by_preset)
    progress("baselines")
    baselines = _baselines(predictions, scorer, scores, training, features, seed)
    progress("intervals")
    patients = [row.patient for row in predictions.rows]
    units = Units.of(patients) if preset is None else preset.units(patients)
    intervals = bootstrap(scores.results, units, resamples=resamples, seed=seed)
    mentions = None
    if is_english(predictions.languages):
        mentions = np.stack([scorer.label_reports(texts), scorer.label_reports(references)])
    normal, normal_by = normal_references(
        predictions.rows, None if mentions is None else mentions[1]
    )
    outputs = Counter(" ".join(text.split()) for text in texts)
    boxes = evaluate_boxes(
        list(zip(texts, references, strict=True)),
        [(row.boxes, row.reference_boxes) for row in predictions.rows],
        [row.patient or f"study {row.id}" for row in predictions.rows],
        units,
        scorer.only([name for name in asked if name in scores.results]),
        training=training_boxes,
        resamples=resamples,
        seed=seed,
    )
    return Evaluation(
        predictions=predictions,
        section=section,
        scores=scores,
        shown=shown_values(scores.results, asked, primary),
        primary=primary,
        intervals=intervals,
        units=units,
        baselines=baselines,
        normal=normal,
        normal_by=normal_by,
        mentions=mentions,
        distinct=len(outputs),
        most_common=outputs.most_common(1)[0],
        warnings=_warnings(predictions, scores, units, outputs, section),
        resamples=resamples,
        preset=preset,
        boxes=boxes,
    )


def _baselines(
    predictions: Predictions,
    scorer: Scorer,
    scores: Scores,
    training: Mapping[str, str] | None,
    features: Mapping[str, Floats] | None,
    seed: int,
) -> Baselines:
    references = predictions.references
    # The metrics that were left out for the predictions would be for the baselines.
    scorer = scorer.only(tuple(scores.results))
    candidates = fixed_report_candidates(list(training.values()) if training else references)
    lists = [[text] * len(references) for text in candidates]

    patients = [row.patient or f"study {row.id}" for row in predictions.rows]
    has_others = len(set(patients)) > 1
    if has_others:
        lists.append([references[i] for i in other_patients(patients, seed=seed)])
    if features is not None:
        lists.append(_nearest_reports(predictions, training or {}, features))

    # Dozens of fixed reports would cost a judge dozens of evaluations; one another's costs one.
    judged = tuple(name for name in scorer.metrics if name in JUDGED)
    others = tuple(name for name in scorer.metrics if name not in JUDGED)
    scored = score_each(scorer.only(others), lists, references)
    fixed = best_fixed_report(itertools.islice(scored, len(candidates)), candidates)
    rest = list(scored)
    if judged:
        for found, texts in zip(rest, lists[len(candidates) :], strict=True):
            found.update(scorer.only(judged)(texts, references).results)
    return Baselines(
        fixed=fixed,
        fixed_from="training reports" if training else "the references themselves",
        other_patient=rest[0] if has_others else None,
        nearest=rest[-1] if features is not None else None,
    )


def _nearest_reports(
    predictions: Predictions, training: Mapping[str, str], features: Mapping[str, Floats]
) -> list[str]:
    absent = [row.id for row in predictions.rows if row.id not in features]
    pool = [id for id in training if id in features]
    if absent or not pool:
        what = ""
        if absent:
            named = ", ".join(absent[:3]) + " ..." * (len(absent) > 3)
            what = f"features of {counted(len(absent), 'study', 'studies')} ({named})"
        raise MetricError(
            f"there are no {what or 'features of any training report'}",
            where="nearest training report",
            remedy="Give features for every study and for the training reports, by id",
            kind="no_features",
        )
    chosen = nearest(
        np.stack([features[row.id] for row in predictions.rows]),
        np.stack([features[id] for id in pool]),
    )
    return [training[pool[i]] for i in chosen]


def _warnings(
    predictions: Predictions,
    scores: Scores,
    units: Units,
    outputs: Counter[str],
    section: str,
) -> tuple[str, ...]:
    texts, references = predictions.predictions, predictions.references
    count = len(texts)
    warnings = [*predictions.notes, *predictions.other_sections(section)]
    marked = sum(map(has_marks, texts))
    if marked:
        warnings.append(
            f"{marked} of {counted(count, 'prediction')} {verb(marked, 'holds', 'hold')} "
            "de-identification marks such as '___', which "
            "the model has learnt; remove them from its training texts"
        )
    grounded = sum(MARK.search(text) is not None for text in texts)
    if grounded:
        warnings.append(
            f"{grounded} of {counted(count, 'prediction')} {verb(grounded, 'holds', 'hold')} marks "
            "of boxes such as '<obj>', which count as words; give the words alone "
            "(llava_rad.grounded_text.read_grounded) and the boxes in a field of their own"
        )
    for what, some in (("prediction", texts), ("reference", references)):
        empty = sum(map(is_empty, some))
        if empty:
            warnings.append(
                f"{empty} of {counted(count, what)} {verb(empty)} empty, and counted with 0"
            )
    distinct_references = len({" ".join(text.split()) for text in references})
    if count > 1 and 2 * len(outputs) < distinct_references:
        text, times = outputs.most_common(1)[0]
        short = text if len(text) <= 80 else text[:77] + "..."
        warnings.append(
            f"the outputs hardly vary: {len(outputs)} distinct among {count} (references: "
            f"{distinct_references}); one is written {counted(times, 'time')}: '{short}'"
        )
    if any(row.boxes for row in predictions.rows) and not any(
        row.reference_boxes for row in predictions.rows
    ):
        warnings.append("predictions have boxes and no reference has, so boxes are not judged")
    if units.count < 2:
        warnings.append(f"there is {units} alone: nothing is resampled, so there are no intervals")
    elif units.count < 100:
        warnings.append(f"{units} are few: expect wide intervals and unstable rare classes")
    if any(row.patient for row in predictions.rows) and units.name == "study":
        warnings.append(
            "the preset resamples studies, as the published table does: intervals are too narrow "
            "where patients have several"
        )
    elif units.name == "study":
        warnings.append(
            "no patients are named, so intervals resample studies and are too narrow if patients "
            "have several; add 'patient_id' (patients=... in Python)"
        )
    suspicious = foreign(references)
    if suspicious and not predictions.languages:
        warnings.append(
            f"{suspicious} of {counted(count, 'reference')} {verb(suspicious, 'does', 'do')} not "
            "read as English, which metrics of labels and entities expect; name their 'language' "
            "in the file"
        )
    for name, result in scores.results.items():
        warnings += [f"{metric_label(name)}: {note}" for note in result.notes]
    return tuple(warnings)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the packages that numbers depend on."""
    found = {"llava_rad": llava_rad.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """All but the single pairs, as ``metrics.json`` holds it: every number finite or null."""
    e = evaluation
    metrics = {
        name: {
            "definition": DEFINITIONS[name],
            "section": e.section,
            "count": e.count,
            **result.facts,
            "notes": list(result.notes),
            "values": {
                value: _with_interval(number, e.intervals[name].get(value))
                for value, number in result.values.items()
            },
        }
        for name, result in e.scores.results.items()
    }
    stated = e.stated()
    rates = None if stated is None else stated.mean(axis=1)
    return {
        "predictions": {
            "file": e.predictions.name,
            "sha256": sha256(e.predictions.path) if e.predictions.path else None,
            "section": e.section,
            "count": e.count,
            "empty_predictions": sum(map(is_empty, e.predictions.predictions)),
            "empty_references": sum(map(is_empty, e.predictions.references)),
            "distinct_predictions": e.distinct,
            "most_common_prediction": {"text": e.most_common[0], "times": e.most_common[1]},
        },
        "primary": e.primary,
        **({} if e.preset is None else {"preset": {**e.preset.facts(), "table": e.published()}}),
        "metrics": metrics,
        **({} if e.boxes is None else {"boxes": e.boxes.to_json()}),
        "left_out": e.scores.left_out,
        "intervals": {
            "method": f"percentile bootstrap over {e.units}",
            "unit": e.units.name,
            "units": e.units.count,
            "level": LEVEL,
            "resamples": e.resamples,
        },
        "baselines": {
            "fixed_report": {
                "chosen_among": e.baselines.fixed_from,
                "values": {
                    key: {"value": json_number(fixed.value), "text": fixed.text}
                    for key, fixed in e.baselines.fixed.items()
                },
            },
            **{
                name: {"values": {key: json_number(v) for key, v in values.items()}}
                for name, values in e.baselines.headlines().items()
                if name != "fixed_report"
            },
        },
        "by_reference": {
            "told_by": e.normal_by,
            "count": {}
            if e.normal is None
            else {"normal": int(e.normal.sum()), "abnormal": int((~e.normal).sum())},
            "values": {
                part: {key: json_number(v) for key, v in values.items()}
                for part, values in e.by_reference().items()
            },
        },
        "stated_observations": {
            "found_by": "chexpert-rules, uncertain counted as stated",
            "share": {}
            if rates is None
            else {
                name: {"prediction": float(rates[0, i]), "reference": float(rates[1, i])}
                for i, name in enumerate(OBSERVATIONS)
            },
        },
        "warnings": list(e.warnings),
        "versions": versions(),
    }


def pair_to_json(evaluation: Evaluation, i: int) -> dict[str, Any]:
    """One line of ``per_sample.jsonl``."""
    row = evaluation.predictions.rows[i]
    record: dict[str, Any] = {
        "id": row.id,
        "prediction": row.prediction,
        "reference": row.reference,
        "normal_reference": None if evaluation.normal is None else bool(evaluation.normal[i]),
        "words": {
            "prediction": len(row.prediction.split()),
            "reference": len(row.reference.split()),
        },
        "values": {key: json_number(v) for key, v in evaluation.pair_values(i).items()},
        "observations": evaluation.observations(i),
    }
    radgraph = evaluation.scores.results.get("radgraph")
    if radgraph is not None:
        record["entities"] = entities_by_fate(radgraph.details[i])
    return record


def entities_by_fate(details: Mapping[str, Any]) -> dict[str, list[str]]:
    """RadGraph's entities of one pair that are matched, missed and invented, with their labels."""
    fates: dict[str, list[str]] = {"matched": [], "missed": [], "invented": []}
    for side in ("prediction", "reference"):
        for entity in details[side]["entities"]:
            named = f"{entity['text']} ({entity['label']})"
            if named not in fates[entity["fate"]] and (
                side == "prediction" or entity["fate"] != "matched"
            ):
                fates[entity["fate"]].append(named)
    return fates


def _with_interval(value: float, interval: Interval | None) -> dict[str, float | int | None]:
    return {
        "value": json_number(value),
        "low": json_number(interval.low) if interval else None,
        "high": json_number(interval.high) if interval else None,
        "median": json_number(interval.median)
        if interval is not None and interval.median is not None
        else None,
    }
