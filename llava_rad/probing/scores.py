"""Scores of predictions under example weights, many weightings at once.

A bootstrap resample is a row of counts. Each function takes rows of weights [resamples, examples]
and gives one value a row, so that a thousand resamples cost a few array operations. With weights of
one the values are scikit-learn's. Where a value does not exist (no positive among the examples) it
is NaN.
"""

import numpy as np
from numpy.typing import NDArray

from llava_rad.statistics import Floats


def auroc(scores: Floats, positive: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve, ties counted half.

    Args:
        scores: higher means rather positive, [examples].
        positive: 1 or 0, [examples].
        weights: [resamples, examples].

    Returns:
        [resamples].
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order, starts = _groups(scores)
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * (1 - positive[order]), starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2
    return _ratio((hits * below).sum(axis=1), hits.sum(axis=1) * misses.sum(axis=1))


def average_precision(scores: Floats, positive: Floats, weights: Floats) -> Floats:
    """Area under the precision-recall curve as a step function (scikit-learn's definition).

    Arguments and result as for :func:`auroc`.
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order, starts = _groups(-scores)
    hits = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    chosen = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    precision = np.divide(
        np.cumsum(hits, axis=1), chosen, out=np.zeros_like(chosen), where=chosen > 0
    )
    return _ratio((hits * precision).sum(axis=1), hits.sum(axis=1))


def mean_auroc(scores: Floats, targets: Floats) -> float:
    """Mean AUROC of labels, by which settings are chosen.

    Args:
        scores: [examples, labels].
        targets: 1, 0, or NaN where unknown, [examples, labels].

    Returns:
        The mean over labels with both values; minus infinity where no label has both.
    """
    areas = []
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        ones = np.ones((1, int(known.sum())))
        areas.append(auroc(scores[known, column], targets[known, column], ones)[0])
    return -np.inf if np.isnan(areas).all() else float(np.nanmean(areas))


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Mean of the values that are not NaN.

    Args:
        values: [examples].
        weights: [resamples, examples].

    Returns:
        [resamples].
    """
    known = ~np.isnan(values)
    return _ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))


def r_squared(predicted: Floats, true: Floats, weights: Floats) -> Floats:
    """Share of the variance that is explained; below 0 where the mean would predict better."""
    mean = weighted_mean(true, weights)
    total = (weights * (true[None] - mean[:, None]) ** 2).sum(axis=1)
    return 1 - _ratio(weights @ (predicted - true) ** 2, total)


def correlation(predicted: Floats, true: Floats, weights: Floats) -> Floats:
    """Pearson's correlation coefficient."""
    a = predicted[None] - weighted_mean(predicted, weights)[:, None]
    b = true[None] - weighted_mean(true, weights)[:, None]
    spread = np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1))
    return _ratio((weights * a * b).sum(axis=1), spread)


def _groups(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ascending order, and where each run of equal scores starts in it."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return order, starts


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
