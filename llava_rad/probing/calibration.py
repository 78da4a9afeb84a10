"""Whether probabilities are what they say: temperature scaling, expected calibration error."""

from dataclasses import dataclass

import numpy as np

from llava_rad.probing.outcome import BinaryOutcome
from llava_rad.statistics import Floats

BINS = 10
#: Positive and negative validation images from which a label gets a temperature of its own.
ENOUGH = 20
_RANGE = (0.05, 20.0)  # temperatures that are tried


def fit_temperatures(logits: Floats, targets: Floats) -> Floats:
    """The temperature of each label under which held-out labels are likeliest (Guo et al., 2017).

    Labels with fewer than :data:`ENOUGH` known positive or negative images share one, of all
    labels together.

    Args:
        logits: [examples, labels].
        targets: 1, 0, or NaN where unknown, [examples, labels].

    Returns:
        [labels], each above 0; ones where nothing is known.
    """
    known = ~np.isnan(targets)
    shared = _temperature(logits[known], targets[known])
    found = np.full(targets.shape[1], shared)
    for column in range(targets.shape[1]):
        rows = known[:, column]
        positive = targets[rows, column].sum()
        if min(positive, rows.sum() - positive) >= ENOUGH:
            found[column] = _temperature(logits[rows, column], targets[rows, column])
    return found


def _temperature(logits: Floats, targets: Floats) -> float:
    from scipy.optimize import minimize_scalar

    if not len(logits):
        return 1.0
    signed = np.where(targets > 0, -logits, logits)

    def surprise(log_temperature: float) -> float:
        return float(np.logaddexp(0, signed / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=np.log(_RANGE), method="bounded").x))


def calibration_error(probabilities: Floats, positive: Floats, weights: Floats) -> Floats:
    """Expected calibration error: how far shares of positives are from what was said.

    Ten bins of equal width; the mean over bins, weighted by their examples, of the distance between
    the mean probability and the share of positives (Naeini et al., AAAI 2015).

    Args:
        probabilities: 0 to 1, [examples].
        positive: 1 or 0, [examples].
        weights: [resamples, examples].

    Returns:
        [resamples]; NaN without examples.
    """
    if not len(probabilities):
        return np.full(len(weights), np.nan)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    members = bins[:, None] == np.arange(BINS)
    gaps = np.abs((weights * (positive - probabilities)) @ members).sum(axis=1)
    total = weights.sum(axis=1)
    return np.divide(gaps, total, out=np.full(len(weights), np.nan), where=total > 0)


@dataclass(frozen=True)
class CalibratedOutcome(BinaryOutcome):
    """Labels that are there or not, with probabilities as scores."""

    def values(self, seed: int, weights: Floats) -> dict[str, Floats]:
        """As for any labels, and ``ece/LABEL`` with its mean ``ece``, 0 where all is as said."""
        found = super().values(seed, weights)
        errors = []
        for column, label in enumerate(self.labels):
            known = ~np.isnan(self.targets[:, column])
            error = calibration_error(
                self.scores[seed, known, column], self.targets[known, column], weights[:, known]
            )
            if known.any():
                errors.append(error)
            found[f"ece/{label}"] = error
        found["ece"] = np.mean(errors, axis=0)
        return found
