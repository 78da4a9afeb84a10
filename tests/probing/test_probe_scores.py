import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from llava_rad.probing.scores import (
    auroc,
    average_precision,
    correlation,
    mean_auroc,
    r_squared,
    weighted_mean,
)


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    positive = rng.integers(0, 2, 60).astype(float)
    scores = np.round(positive + rng.normal(0, 1.5, 60), 1)  # rounding makes ties
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    return scores, positive, weights


def test_areas_are_scikit_learns_on_every_resample(sample):
    scores, positive, weights = sample
    for row, area, precision in zip(
        weights,
        auroc(scores, positive, weights),
        average_precision(scores, positive, weights),
        strict=True,
    ):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=row))
        assert precision == pytest.approx(
            average_precision_score(positive, scores, sample_weight=row)
        )


def test_constant_scores_are_worth_half_and_the_share_of_positives(sample):
    _, positive, _ = sample
    ones = np.ones((1, len(positive)))
    flat = np.zeros(len(positive))
    assert auroc(flat, positive, ones)[0] == 0.5
    assert average_precision(flat, positive, ones)[0] == pytest.approx(positive.mean())


def test_a_resample_without_positives_has_no_value(sample):
    scores, positive, _ = sample
    weights = np.stack([1 - positive, np.ones_like(positive)])
    for function in (auroc, average_precision):
        values = function(scores, positive, weights)
        assert np.isnan(values[0]) and not np.isnan(values[1])
    assert np.isnan(auroc(np.zeros(0), np.zeros(0), np.ones((2, 0)))).all()


def test_mean_auroc_leaves_out_unknown_targets_and_constant_labels():
    scores = np.array([[0.1, 0.3], [0.9, 0.2], [0.5, 0.1], [0.4, 0.9]])
    targets = np.array([[0.0, 1], [1, 1], [np.nan, 1], [0, 1]])
    assert mean_auroc(scores, targets) == 1.0
    assert mean_auroc(scores[:, 1:], targets[:, 1:]) == -np.inf


def test_regression_scores_under_weights(sample):
    predicted, true, weights = sample
    true = true + 0.3 * np.arange(60)
    for row, r2, rho, mean in zip(
        weights,
        r_squared(predicted, true, weights),
        correlation(predicted, true, weights),
        weighted_mean(true, weights),
        strict=True,
    ):
        assert r2 == pytest.approx(r2_score(true, predicted, sample_weight=row))
        repeated = np.repeat(np.arange(60), row.astype(int))
        assert rho == pytest.approx(np.corrcoef(predicted[repeated], true[repeated])[0, 1])
        assert mean == pytest.approx(true[repeated].mean())


def test_weighted_mean_leaves_out_unknown_values():
    values = np.array([1.0, np.nan, 3.0])
    assert weighted_mean(values, np.ones((1, 3)))[0] == 2.0
    assert np.isnan(weighted_mean(values, np.array([[0.0, 5.0, 0.0]])))[0]
