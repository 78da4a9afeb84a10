"""k nearest neighbours by cosine similarity, as DINO is evaluated (arXiv:2104.14294, section 4.1).

Each of the k most similar training images votes with the weight exp(similarity / 0.07). Nothing is
trained; k is chosen on validation.
"""

import numpy as np
from numpy.typing import NDArray

from llava_rad.probing.scores import Floats, mean_auroc

NEIGHBOURS = (5, 10, 20, 50, 100)
_TEMPERATURE = 0.07
_BLOCK = 1024  # rows compared with all others at once


def nearest_neighbours(
    features: Floats, others: Floats, count: int
) -> tuple[NDArray[np.intp], Floats]:
    """The most similar rows of ``others`` for each row of ``features``.

    Returns:
        Their indices and cosine similarities, most similar first, each [rows, count].
    """
    queries, keys = _normalised(features), _normalised(others)
    found: list[tuple[NDArray[np.intp], Floats]] = []
    for start in range(0, len(queries), _BLOCK):
        similarity = queries[start : start + _BLOCK] @ keys.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        found.append((nearest, np.take_along_axis(similarity, nearest, axis=1)))
    return np.concatenate([n for n, _ in found]), np.concatenate([s for _, s in found])


def knn_scores(
    train: tuple[Floats, Floats],
    validation: tuple[Floats, Floats],
    test: Floats,
) -> tuple[Floats, int]:
    """Share of the neighbours' votes for each label.

    Args:
        train: features [examples, dim] and labels 1, 0 or NaN [examples, labels].
        validation: the same; chooses k by mean AUROC.
        test: features [examples, dim].

    Returns:
        Scores in [0, 1], [examples, labels], and k. A label that no neighbour knows gets its
        share among the training images.
    """
    best, highest = NEIGHBOURS[0], -np.inf
    for count in NEIGHBOURS:
        if count > len(train[0]):
            break
        quality = mean_auroc(_vote(train, validation[0], count), validation[1])
        if quality > highest:
            best, highest = count, quality
    return _vote(train, test, best), best


def _vote(train: tuple[Floats, Floats], features: Floats, count: int) -> Floats:
    nearest, similarity = nearest_neighbours(features, train[0], count)
    votes = np.exp((similarity - 1) / _TEMPERATURE)[:, :, None]
    labels = train[1][nearest]  # [examples, count, labels]
    weights = votes * ~np.isnan(labels)
    total = weights.sum(axis=1)
    prior = np.nanmean(train[1], axis=0, keepdims=True)
    share = (weights * np.nan_to_num(labels)).sum(axis=1)
    return np.where(total > 0, share / np.where(total > 0, total, 1), prior)


def _normalised(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
