"""What a task's predictions on the test examples say: values, intervals, differences.

An outcome keeps the predictions of every seed, so that each number (and its interval, and the
difference to another encoder on the same patients) can be worked out afterwards. Resampling draws
patients, not images: images of one patient are alike, and an interval that treats them as
independent is too narrow.
"""

import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llava_rad.errors import DataError, MetricError
from llava_rad.outputs import write_bytes_result
from llava_rad.probing.scores import (
    Floats,
    auroc,
    average_precision,
    correlation,
    r_squared,
    weighted_mean,
)
from llava_rad.readers import CONSTANTS, parse_json
from llava_rad.statistics import (
    LEVEL,
    RESAMPLES,
    Difference,
    Units,
    paired_difference,
    percentile_interval,
)

OUTCOME_VERSION = 2
"""Of what an outcome holds and means; kept predictions of another version are made again."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: mean over the seeds.
        low, high: percentile interval from resampled test patients, seeds averaged in each; NaN
            where there is one patient alone.
        spread: standard deviation over the seeds; None for a single one.
        baseline: what the same test gives without looking at the image; None where that is not
            known.
    """

    value: float
    low: float
    high: float
    spread: float | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Outcome(ABC):
    """Predictions of one task on its test examples.

    Attributes:
        patients: the patient of each example.
        headline: the measure that stands for the outcome in a comparison.
    """

    patients: tuple[str, ...]
    _resampled: dict[tuple[int, int], dict[str, Floats]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    kind: ClassVar[str]
    headline: ClassVar[str]
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    by_fit: ClassVar[tuple[str, ...]] = ("scores",)  # arrays whose first axis is the fits

    @property
    def units(self) -> Units:
        """What is resampled: the patients, each with all its images."""
        return Units.of(self.patients)

    @property
    @abstractmethod
    def seeds(self) -> int:
        """How many fits there are."""

    @abstractmethod
    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """Each measure of one seed's predictions, by name.

        Args:
            seed: index of the fit.
            weights: of the examples, [resamples, examples].

        Returns:
            Each [resamples].
        """

    def baselines(self) -> dict[str, float]:
        """Values of a prediction that is the same for every image, where they are known."""
        return {}

    def measured(self) -> dict[str, float]:
        """Every measure on all test examples, mean over the seeds."""
        ones = np.ones((1, len(self.patients)))
        return {name: float(value[0]) for name, value in self._mean_values(ones).items()}

    def estimates(
        self, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
    ) -> dict[str, Estimate]:
        """Every measure with its interval.

        Args:
            resamples: of the patients.
            level: confidence of the intervals.
            seed: of the resamples; equal seeds draw equal patients.
        """
        ones = np.ones((1, len(self.patients)))
        single = [self.values(s, ones) for s in range(self.seeds)]
        drawn = self._drawn(resamples, seed)
        baselines = self.baselines()
        estimates = {}
        for name in single[0]:
            values = np.array([float(values[name][0]) for values in single])
            interval = percentile_interval(drawn[name], self.units, level)
            estimates[name] = Estimate(
                value=float(values.mean()),
                low=interval.low if interval else math.nan,
                high=interval.high if interval else math.nan,
                spread=float(values.std(ddof=1)) if self.seeds > 1 else None,
                baseline=baselines.get(name),
            )
        return estimates

    def compare(
        self,
        other: "Outcome",
        *,
        resamples: int = RESAMPLES,
        level: float = LEVEL,
        seed: int = 0,
    ) -> dict[str, Difference]:
        """Differences to another outcome of the same task (paired bootstrap, Koehn 2004).

        Raises:
            MetricError: the two are not on the same examples.
        """
        _require_same_examples(self, other)
        mine, theirs = self._drawn(resamples, seed), other._drawn(resamples, seed)
        first, second = self.measured(), other.measured()
        return {
            name: paired_difference(
                first[name] - second[name], values - theirs[name], self.units, level=level
            )
            for name, values in mine.items()
        }

    def _mean_values(self, weights: Floats) -> dict[str, Floats]:
        parts = [self.values(seed, weights) for seed in range(self.seeds)]
        return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}

    def _drawn(self, resamples: int, seed: int) -> dict[str, Floats]:
        """Each measure on each resample; kept, because an outcome is compared with many."""
        if (resamples, seed) not in self._resampled:
            units = self.units
            blocks = [
                self._mean_values(counts[:, units.index]) for counts in units.draws(resamples, seed)
            ]
            self._resampled[resamples, seed] = {
                name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]
            }
        return self._resampled[resamples, seed]

    def save(self, path: Path) -> None:
        """Write the predictions as ``.npz``, which :func:`load_outcome` reads back."""
        content: dict[str, Any] = {"kind": self.kind}
        arrays: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.init:
                (arrays if isinstance(value, np.ndarray) else content)[each.name] = value
        buffer = io.BytesIO()
        np.savez_compressed(buffer, content=np.array(json.dumps(content)), **arrays)
        write_bytes_result(path, buffer.getvalue())


@dataclass(frozen=True)
class BinaryOutcome(Outcome):
    """Labels that are there or not.

    Attributes:
        labels: their names.
        scores: higher means rather present, [seeds, examples, labels].
        targets: 1, 0, or NaN where unknown, [examples, labels].
    """

    labels: tuple[str, ...]
    scores: Floats
    targets: Floats

    kind = "binary"
    headline = "auroc"

    @property
    def seeds(self) -> int:
        """How many fits there are."""
        return len(self.scores)

    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """``auroc/LABEL``, ``auprc/LABEL`` and their means over labels, ``auroc`` and ``auprc``.

        A mean is over the labels that have a value in all of the test examples.
        """
        found: dict[str, Floats] = {}
        for name, function in (("auroc", auroc), ("auprc", average_precision)):
            columns = []
            for column, label in enumerate(self.labels):
                known = ~np.isnan(self.targets[:, column])
                truth = self.targets[known, column]
                value = function(self.scores[seed, known, column], truth, weights[:, known])
                if len(self.labels) > 1:
                    found[f"{name}/{label}"] = value
                if 0 < truth.sum() < len(truth):
                    columns.append(value)
            found[name] = _nanmean(columns, len(weights))
        return found

    def baselines(self) -> dict[str, float]:
        """AUROC 0.5; for AUPRC the share of positives."""
        baselines: dict[str, float] = {"auroc": 0.5}
        shares = []
        for column, label in enumerate(self.labels):
            truth = self.targets[~np.isnan(self.targets[:, column]), column]
            baselines[f"auroc/{label}"] = 0.5
            if 0 < truth.sum() < len(truth):
                baselines[f"auprc/{label}"] = float(truth.mean())
                shares.append(float(truth.mean()))
        if shares:
            baselines["auprc"] = float(np.mean(shares))
        return baselines


@dataclass(frozen=True)
class CategoryOutcome(Outcome):
    """One of several categories.

    Attributes:
        classes: their names, in their order where they have one.
        scores: probabilities, [seeds, examples, classes].
        targets: index of the true class, [examples].
        common: index of the class that is most frequent in training.
        ordered: whether neighbouring classes are alike, as age groups are.
    """

    classes: tuple[str, ...]
    scores: Floats
    targets: Floats
    common: int
    ordered: bool = False

    kind = "category"
    headline = "auroc"

    @property
    def seeds(self) -> int:
        """How many fits there are."""
        return len(self.scores)

    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """``accuracy``, ``auroc`` (mean of each class against the rest), ``within_one`` class."""
        chosen = self.scores[seed].argmax(axis=1)
        areas = []
        for index in range(len(self.classes)):
            positive = (self.targets == index).astype(np.float64)
            if 0 < positive.sum() < len(positive):
                areas.append(auroc(self.scores[seed, :, index], positive, weights))
        found = {
            "accuracy": weighted_mean((chosen == self.targets).astype(np.float64), weights),
            "auroc": _nanmean(areas, len(weights)),
        }
        if self.ordered:
            near = (np.abs(chosen - self.targets) <= 1).astype(np.float64)
            found["within_one"] = weighted_mean(near, weights)
        return found

    def baselines(self) -> dict[str, float]:
        """What the most frequent class of the training examples gives."""
        baselines = {"accuracy": float((self.targets == self.common).mean()), "auroc": 0.5}
        if self.ordered:
            baselines["within_one"] = float((np.abs(self.targets - self.common) <= 1).mean())
        return baselines


@dataclass(frozen=True)
class NumberOutcome(Outcome):
    """A quantity.

    Attributes:
        scores: predicted, [seeds, examples].
        targets: true, [examples].
        mean: of the training examples.
    """

    scores: Floats
    targets: Floats
    mean: float

    kind = "number"
    headline = "mae"
    lower_is_better = ("mae",)

    @property
    def seeds(self) -> int:
        """How many fits there are."""
        return len(self.scores)

    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """``mae`` (mean absolute error), ``r2`` and ``correlation``."""
        predicted = self.scores[seed]
        return {
            "mae": weighted_mean(np.abs(predicted - self.targets), weights),
            "r2": r_squared(predicted, self.targets, weights),
            "correlation": correlation(predicted, self.targets, weights),
        }

    def baselines(self) -> dict[str, float]:
        """What the mean of the training examples gives."""
        return {"mae": float(np.abs(self.mean - self.targets).mean()), "r2": 0.0}


@dataclass(frozen=True)
class MaskOutcome(Outcome):
    """Segmented structures.

    Attributes:
        structures: their names.
        dice: of each image, NaN where its mask is not known, [seeds, examples, structures].
        distance: mean surface distance in percent of the image's longer side, that of the image's
            diagonal where nothing was outlined, NaN where the true mask is empty or not known,
            [seeds, examples, structures].
        outlined: 1 where anything was outlined, [seeds, examples, structures].
        present: 1 where the true mask is not empty, [examples, structures].
    """

    structures: tuple[str, ...]
    dice: Floats
    distance: Floats
    outlined: Floats
    present: Floats

    kind = "mask"
    headline = "dice"
    lower_is_better = ("surface_distance", "missed")
    by_fit = ("dice", "distance", "outlined")

    @property
    def seeds(self) -> int:
        """How many fits there are."""
        return len(self.dice)

    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """``dice``, ``surface_distance`` and ``missed``, by structure and over structures.

        The first two are means, of images and of structures; ``missed`` is the number of images
        that show a structure of which nothing was outlined. Two empty masks have a Dice of 1.
        Where a structure is absent from some images there is also ``dice_present``, over the
        images that show it.
        """
        found: dict[str, Floats] = {}
        columns: dict[str, list[Floats]] = {}
        for column, structure in enumerate(self.structures):
            dice = self.dice[seed, :, column]
            parts = {"dice": dice, "surface_distance": self.distance[seed, :, column]}
            known = ~np.isnan(dice)
            if (self.present[known, column] == 0).any():
                parts["dice_present"] = np.where(self.present[:, column] > 0, dice, np.nan)
            for name, values in parts.items():
                value = weighted_mean(values, weights)
                columns.setdefault(name, []).append(value)
                if len(self.structures) > 1:
                    found[f"{name}/{structure}"] = value
        found |= {name: _nanmean(parts, len(weights)) for name, parts in columns.items()}
        missed = weights @ (self._shown() * (1 - self.outlined[seed]))  # [resamples, structures]
        if len(self.structures) > 1:
            found |= {f"missed/{name}": missed[:, i] for i, name in enumerate(self.structures)}
        return found | {"missed": missed.sum(axis=1)}

    def baselines(self) -> dict[str, float]:
        """How many structures there are to miss."""
        shown = self._shown().sum(axis=0)
        found = {f"missed/{name}": float(n) for name, n in zip(self.structures, shown, strict=True)}
        return {**found, "missed": float(shown.sum())}

    def _shown(self) -> Floats:
        """1 where the true mask is known and not empty, [examples, structures]."""
        return np.where(np.isnan(self.dice[0]), 0.0, self.present)


_KINDS: dict[str, type[Outcome]] = {
    outcome.kind: outcome
    for outcome in (BinaryOutcome, CategoryOutcome, NumberOutcome, MaskOutcome)
}


def join_fits(outcomes: Sequence[Outcome]) -> Outcome:
    """Several outcomes of one task as one that has the fits of all.

    Args:
        outcomes: such as those of an encoder that was pretrained with several seeds.

    Raises:
        MetricError: they are not on the same examples.
    """
    first = outcomes[0]
    for other in outcomes[1:]:
        _require_same_examples(first, other)
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(outcome, name) for outcome in outcomes])
        for name in first.by_fit
    }
    return replace(first, **joined)


def _require_same_examples(first: Outcome, other: Outcome) -> None:
    if first.patients != other.patients or type(first) is not type(other):
        raise MetricError(
            "the two outcomes are not on the same test examples",
            remedy="Compare encoders on one manifest and one task",
            kind="other_examples",
        )


def load_outcome(path: Path) -> Outcome:
    """Read what :meth:`Outcome.save` wrote.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = str(file["content"])
            values: dict[str, Any] = parse_json(content, where=path, constants=CONSTANTS)
            values |= {name: file[name] for name in file.files if name != "content"}
        outcome = _KINDS[values.pop("kind")]
        return outcome(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, DataError) as error:
        raise DataError(
            f"saved predictions cannot be read ({error})",
            where=path,
            remedy="Delete the file, and they are made again",
            kind="bad_predictions",
        ) from error


def _nanmean(columns: Sequence[Floats], rows: int) -> Floats:
    if not columns:
        return np.full(rows, np.nan)
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.divide(total, count, out=np.full(rows, np.nan), where=count > 0)
