"""Fitting probes to targets and testing them, over seeds and shares of the training patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.data.patient_shares import draw_patients
from llava_rad.errors import ConfigError
from llava_rad.features import FeatureStore, fill_together
from llava_rad.probing.attentive_probe import AttentiveProbe, ReadTokens, fit_attentive_probe
from llava_rad.probing.examples import Example, Examples
from llava_rad.probing.features import Features
from llava_rad.probing.knn import knn_scores
from llava_rad.probing.linear_probe import LinearProbe, fit_linear_probe
from llava_rad.probing.outcome import BinaryOutcome, CategoryOutcome, NumberOutcome, Outcome
from llava_rad.probing.scores import Floats
from llava_rad.probing.targets import Target
from llava_rad.processes import share_jobs


@dataclass(frozen=True)
class SplitVectors:
    """One vector an image, by split, and the patients of the images.

    Attributes:
        train, validation, test: [images, dim].
        train_patients: of the training images.
        test_patients: of the test images.
    """

    train: Floats
    validation: Floats
    test: Floats
    train_patients: tuple[str, ...]
    test_patients: tuple[str, ...]


@dataclass(frozen=True)
class PatientCount:
    """How many patients there are.

    Attributes:
        training: that each seed learned from.
        test: that the numbers are of.
    """

    training: int
    test: int


@dataclass(frozen=True)
class ProbeResult:
    """A probe's test.

    Attributes:
        outcome: predictions of all seeds on the test images.
        probes: the fitted probes, one a seed; empty for k-NN, which fits nothing.
        patients: whose target is known, by label and under ``""`` for any of the labels.
        facts: how it was made, for the record.
    """

    outcome: Outcome
    probes: tuple[LinearProbe, ...] | tuple[AttentiveProbe, ...]
    patients: dict[str, PatientCount]
    facts: dict[str, float]


def split_vectors(features: Features, examples: Examples, pooling: str) -> SplitVectors:
    """Features of ``examples.all``, pooled and taken apart by split."""
    vectors = features.pooled(pooling).double().numpy()
    train, validation = len(examples.train), len(examples.validation)
    return SplitVectors(
        train=vectors[:train],
        validation=vectors[train : train + validation],
        test=vectors[train + validation :],
        train_patients=tuple(e.patient for e in examples.train),
        test_patients=tuple(e.patient for e in examples.test),
    )


def run_linear_probe(
    vectors: SplitVectors,
    targets: Sequence[Target],
    *,
    solver: str = "lbfgs",
    seeds: int = 5,
    fraction: float = 1.0,
) -> ProbeResult:
    """Fit on training images, choose on validation images, predict the test images.

    Processes of ``accelerate launch`` share the seeds.

    Args:
        vectors: of the images.
        targets: one target, or several binary ones, which share a grid setting.
        solver: see :func:`fit_linear_probe`.
        seeds: number of fits. With all patients, ``lbfgs`` makes one, whatever is asked: it has
            one solution.
        fraction: share of the training patients with a known target to learn from, drawn anew by
            each seed; larger shares of one seed hold the patients of smaller ones.

    Raises:
        ConfigError: a number is out of range.
        DataError: the targets cannot be learned.
    """
    _check(fraction, seeds)
    kind = targets[0].kind
    names = tuple(t.name for t in targets) if kind == "binary" else targets[0].classes or ("value",)
    train, validation, test = (_matrix(targets, name) for name in ("train", "validation", "test"))

    def fit(seed: int) -> tuple[Floats, LinearProbe]:
        chosen = _drawn(vectors.train_patients, train, fraction, seed)
        probe = fit_linear_probe(
            kind,
            names,
            (vectors.train[chosen], train[chosen]),
            (vectors.validation, validation),
            solver=solver,
            seed=seed,
        )
        return probe.predict(vectors.test), probe

    fits = 1 if solver == "lbfgs" and fraction == 1 else seeds
    results = share_jobs(fit, range(fits))
    scores = np.stack([scores for scores, _ in results])
    chosen = _drawn(vectors.train_patients, train, fraction, 0)
    return ProbeResult(
        outcome=_outcome(targets, train, scores, test, vectors.test_patients),
        probes=tuple(probe for _, probe in results),
        patients=count_patients(
            targets, (vectors.train_patients, train), (vectors.test_patients, test), chosen
        ),
        facts={"fits": fits, "fraction": fraction},
    )


def run_attentive_probe(
    store: FeatureStore,
    examples: Examples,
    targets: Sequence[Target],
    *,
    seeds: int = 5,
    fraction: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> ProbeResult:
    """As :func:`run_linear_probe`, with a query of patch tokens that is learnt with the layer.

    Args:
        store: of the encoder's patch tokens; what it lacks is encoded.
        examples: the images.
        targets: binary ones, which share a grid setting.
        seeds: number of fits.
        fraction: see :func:`run_linear_probe`.
        progress: called with a line now and then.

    Raises:
        ConfigError: a number is out of range, or a target is not binary.
        DataError: the targets cannot be learned.
        ImageError: an image cannot be read.
    """
    _check(fraction, seeds)
    if targets[0].kind != "binary":
        raise ConfigError(
            f"{targets[0].name} is no label of 0 and 1",
            where="pooling=attentive",
            remedy="Use pooling cls, mean or cls+mean",
        )
    train, validation, test = (_matrix(targets, name) for name in ("train", "validation", "test"))
    patients = tuple(example.patient for example in examples.train)
    say = progress or (lambda line: None)
    fill_together(
        store,
        [e.path for e in examples.all],
        lambda done, of: say(f"encoded patches of {done} of {of}"),
    )

    def fit(seed: int) -> tuple[Floats, AttentiveProbe]:
        chosen = np.flatnonzero(_drawn(patients, train, fraction, seed))
        probe = fit_attentive_probe(
            tuple(target.name for target in targets),
            (_tokens(store, [examples.train[index] for index in chosen]), train[chosen]),
            (_tokens(store, examples.validation), validation),
            seed=seed,
        )
        return probe.predict(_tokens(store, examples.test), len(test)), probe

    results = share_jobs(fit, range(seeds))
    test_patients = tuple(example.patient for example in examples.test)
    return ProbeResult(
        outcome=_outcome(targets, train, np.stack([s for s, _ in results]), test, test_patients),
        probes=tuple(probe for _, probe in results),
        patients=count_patients(
            targets, (patients, train), (test_patients, test), _drawn(patients, train, fraction, 0)
        ),
        facts={"fits": seeds, "fraction": fraction},
    )


def _tokens(store: FeatureStore, examples: Sequence[Example]) -> ReadTokens:
    """The patch tokens of examples by their places."""
    return lambda places: store.read([examples[place].path for place in places]).float()


def _check(fraction: float, seeds: int) -> None:
    if not 0 < fraction <= 1 or seeds < 1:
        raise ConfigError(
            f"fraction is {fraction}, seeds is {seeds}",
            remedy="Give a fraction above 0 and up to 1, and at least one seed",
        )


def run_knn(
    vectors: SplitVectors, targets: Sequence[Target], *, seeds: int = 5, fraction: float = 1.0
) -> ProbeResult:
    """Classify binary targets by the k nearest neighbours.

    Arguments as for :func:`run_linear_probe`. With all patients there is one result whatever the
    seeds.
    """
    train, validation, test = (_matrix(targets, name) for name in ("train", "validation", "test"))
    scores, ks = [], []
    for seed in range(1 if fraction == 1 else seeds):
        chosen = _drawn(vectors.train_patients, train, fraction, seed)
        seed_scores, k = knn_scores(
            (vectors.train[chosen], train[chosen]), (vectors.validation, validation), vectors.test
        )
        scores.append(seed_scores)
        ks.append(k)
    chosen = _drawn(vectors.train_patients, train, fraction, 0)
    return ProbeResult(
        outcome=_outcome(targets, train, np.stack(scores), test, vectors.test_patients),
        probes=(),
        patients=count_patients(
            targets, (vectors.train_patients, train), (vectors.test_patients, test), chosen
        ),
        facts={"fits": len(scores), "fraction": fraction, "k": float(np.median(ks))},
    )


def count_patients(
    targets: Sequence[Target],
    train: tuple[Sequence[str], Floats],
    test: tuple[Sequence[str], Floats],
    chosen: NDArray[np.bool_],
) -> dict[str, PatientCount]:
    """Patients whose target is known, by target and under ``""`` for any of them.

    Args:
        targets: their names are the columns'.
        train: patients of the training images, and their targets [images] or [images, targets].
        test: the same of the test images.
        chosen: which training images were learned from, bool [images].
    """

    def count(patients: Sequence[str], known: NDArray[np.bool_]) -> int:
        return len({patients[index] for index in np.flatnonzero(known).tolist()})

    def counted(learned: NDArray[np.bool_], tested: NDArray[np.bool_]) -> PatientCount:
        return PatientCount(count(train[0], learned & chosen), count(test[0], tested))

    learned, tested = _known(train[1]), _known(test[1])
    by_target = {
        target.name: counted(learned[:, i], tested[:, i]) for i, target in enumerate(targets)
    }
    return {**by_target, "": counted(_any(learned), _any(tested))}


def _drawn(
    patients: Sequence[str], targets: Floats, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which images are of a share of the patients with a known target, bool [images]."""
    known = _any(_known(targets))
    chosen = np.zeros(len(targets), bool)
    places = np.flatnonzero(known).tolist()
    chosen[places] = draw_patients([patients[index] for index in places], fraction, seed)
    return chosen


def _known(targets: Floats) -> NDArray[np.bool_]:
    """Which targets are known, [images, targets], also of a single target [images]."""
    return ~np.isnan(targets.reshape(len(targets), -1))


def _any(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(known.any(axis=1))


def _matrix(targets: Sequence[Target], split: str) -> Floats:
    columns = [getattr(target, split) for target in targets]
    return np.stack(columns, axis=1) if targets[0].kind == "binary" else columns[0]


def _outcome(
    targets: Sequence[Target],
    train: Floats,
    scores: Floats,
    test: Floats,
    patients: tuple[str, ...],
) -> Outcome:
    """The outcome on the test images whose target is known; ``scores`` [seeds, images, outputs]."""
    target = targets[0]
    known = ~np.isnan(test) if test.ndim == 1 else (~np.isnan(test)).any(axis=1)
    scores, test = scores[:, known], test[known]
    patients = tuple(patients[index] for index in np.flatnonzero(known))
    if target.kind == "binary":
        return BinaryOutcome(patients, tuple(t.name for t in targets), scores, test)
    if target.kind == "number":
        return NumberOutcome(patients, scores[:, :, 0], test, float(np.nanmean(train)))
    common = int(np.bincount(train[~np.isnan(train)].astype(int)).argmax())
    return CategoryOutcome(patients, target.classes, scores, test, common, target.ordered)
