"""Temperatures and calibration error against values worked out otherwise."""

import numpy as np
import pytest

from llava_rad.probing.calibration import (
    CalibratedOutcome,
    calibration_error,
    fit_temperatures,
)


def test_the_temperature_that_made_logits_too_sure_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 2))
    targets = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    targets[:5000, 1] = np.nan
    found = fit_temperatures(logits * [3.0, 0.5], targets)
    np.testing.assert_allclose(found, [3.0, 0.5], rtol=0.05)


def test_labels_with_few_images_share_a_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    targets = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    targets[30:, 1:] = np.nan
    found = fit_temperatures(logits * 2, targets)
    assert found[1] == found[2] == pytest.approx(2.0, rel=0.1)
    assert found[0] != found[1]
    np.testing.assert_array_equal(fit_temperatures(np.zeros((0, 2)), np.zeros((0, 2))), [1, 1])


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    said = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    there = np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    # Bin 0: 0.5 happened, 0.05 said; bin 9: 2/3 happened, 2.9/3 said.
    wanted = (2 * 0.45 + 3 * (2.9 - 2) / 3) / 5
    weights = np.array([[1.0] * 5, [2.0, 0, 0, 0, 0], [0.0] * 5])
    found = calibration_error(said, there, weights)
    assert found[0] == pytest.approx(wanted)
    assert found[1] == pytest.approx(0.05) and np.isnan(found[2])


def test_an_outcome_gives_it_for_each_label():
    rng = np.random.default_rng(0)
    said = rng.uniform(size=(1, 3000, 2))
    there = (rng.uniform(size=said[0].shape) < said[0]).astype(float)
    there[:, 1] = 1 - there[:, 1]
    outcome = CalibratedOutcome(tuple(map(str, range(3000))), ("right", "wrong"), said, there)
    found = outcome.estimates(resamples=100)
    assert found["ece/right"].value < 0.05 < 0.4 < found["ece/wrong"].value
    assert found["ece"].value == pytest.approx(
        (found["ece/right"].value + found["ece/wrong"].value) / 2
    )
    assert found["ece/wrong"].low < found["ece/wrong"].value < found["ece/wrong"].high
