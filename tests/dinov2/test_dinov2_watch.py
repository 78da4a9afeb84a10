"""What is measured over an epoch, and when a run stops."""

import math

import pytest
import torch

from llava_rad.dinov2.watch import EpochWatch, check_collapse, signs
from llava_rad.errors import TrainingError

CPU = torch.device("cpu")


def _summary(targets, features, batches=1):
    watch = EpochWatch(targets.shape[1], features.shape[1], CPU)
    for part in zip(targets.chunk(batches), features.chunk(batches), strict=True):
        watch.add(*part)
    return watch.summary()


def test_orthogonal_features_have_full_rank_and_spread():
    # +-e_i: mean 0, covariance I / 4.
    features = torch.cat([torch.eye(4), -torch.eye(4)]) * 7  # lengths do not count
    summary = _summary(torch.full((8, 4), 0.25), features)
    assert summary["feature_spread"] == pytest.approx(1)
    assert summary["effective_rank"] == pytest.approx(4)


def test_features_on_a_line_have_rank_one():
    features = torch.tensor([[1.0, 0, 0], [-1, 0, 0]]).repeat(4, 1)
    summary = _summary(torch.full((8, 4), 0.25), features)
    assert summary["effective_rank"] == pytest.approx(1)
    assert summary["feature_spread"] == pytest.approx(1)


def test_spread_is_what_numpy_says_however_the_epoch_is_cut():
    torch.manual_seed(0)
    features, targets = torch.randn(40, 6) + 1, torch.softmax(torch.randn(40, 5), dim=1)
    normalised = torch.nn.functional.normalize(features, dim=1)
    expected = math.sqrt((normalised - normalised.mean(0)).pow(2).sum(1).mean())
    eigenvalues = torch.linalg.eigvalsh(torch.cov(normalised.T, correction=0))
    shares = eigenvalues / eigenvalues.sum()
    whole, parts = _summary(targets, features), _summary(targets, features, batches=4)
    for summary in (whole, parts):
        assert summary["feature_spread"] == pytest.approx(expected, rel=1e-4)
        rank = math.exp(-(shares * shares.log()).sum())
        assert summary["effective_rank"] == pytest.approx(rank, rel=1e-4)
    assert parts["target_entropy"] == pytest.approx(whole["target_entropy"])


def test_entropy_and_use_of_prototypes():
    targets = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0, 0]])
    summary = _summary(targets, torch.randn(3, 4))
    assert summary["target_entropy"] == pytest.approx(math.log(2) / 3 / math.log(4))
    assert summary["prototypes_seen"] == 2
    assert summary["prototypes_used"] == pytest.approx(2 / 3)  # three tokens can use three


def test_the_signs_of_a_step_are_those_of_an_epoch_of_one_batch():
    torch.manual_seed(0)
    features, targets = torch.randn(40, 6) + 1, torch.softmax(torch.randn(40, 5), dim=1)
    summary, found = _summary(targets, features), signs(targets, features)
    assert float(found["entropy"]) == pytest.approx(summary["target_entropy"])
    assert float(found["spread"]) == pytest.approx(summary["feature_spread"], rel=1e-4)
    equal = signs(torch.full((8, 4), 0.25), torch.ones(8, 3))
    assert float(equal["entropy"]) == pytest.approx(1)
    assert float(equal["spread"]) == pytest.approx(0, abs=1e-3)


def test_state_goes_on_where_it_was():
    torch.manual_seed(0)
    features, targets = torch.randn(8, 6), torch.softmax(torch.randn(8, 5), dim=1)
    first = EpochWatch(5, 6, CPU)
    first.add(targets[:4], features[:4])
    second = EpochWatch(5, 6, CPU)
    second.load_state(first.state())
    second.add(targets[4:], features[4:])
    assert second.summary() == pytest.approx(_summary(targets, features))


HEALTHY = {
    "target_entropy": 0.9,
    "prototypes_seen": 300.0,
    "prototypes_used": 0.5,
    "feature_spread": 0.6,
    "effective_rank": 1.3,
}


@pytest.mark.parametrize(
    ("change", "sign", "remedy"),
    [
        ({"feature_spread": 0.04}, "nearly the same", "koleo_weight"),
        ({"target_entropy": 0.99995}, "likes all prototypes the same", "teacher_temperature"),
        ({"prototypes_seen": 1.0}, "the same prototype", "sinkhorn"),
    ],
)
def test_each_sign_stops_the_run_and_names_its_remedy(change, sign, remedy):
    check_collapse(HEALTHY, 3)
    with pytest.raises(TrainingError, match=sign) as caught:
        check_collapse(HEALTHY | change, 3)
    assert remedy in caught.value.remedy
    assert "epoch 3" in str(caught.value)
