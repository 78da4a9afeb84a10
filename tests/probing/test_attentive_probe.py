"""Queries that pool patch tokens."""

import numpy as np
import pytest
import torch

from llava_rad.errors import DataError, WeightsError
from llava_rad.probing.attentive_probe import (
    AttentiveProbe,
    fit_attentive_probe,
    load_attentive_probe,
)
from llava_rad.probing.scores import mean_auroc

TOKENS, DIM = 25, 8


def _images(count, seed):
    """Noise; where the label is 1, one token of a place of its own points along the first axis."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, TOKENS, DIM, generator=generator)
    truth = np.zeros((count, 1))
    for image in range(0, count, 2):
        truth[image] = 1
        tokens[image, torch.randint(TOKENS, (), generator=generator), 0] += 6.0
    return tokens, truth


def _reader(tokens):
    return lambda places: tokens[list(places)]


def _fit(**changed):
    train, validation = _images(160, 0), _images(60, 1)
    return fit_attentive_probe(
        ("Nodule",),
        (_reader(train[0]), train[1]),
        (_reader(validation[0]), validation[1]),
        **changed,
    )


def test_it_finds_what_the_mean_of_the_patches_hides():
    from sklearn.linear_model import LogisticRegression

    probe, (tokens, truth) = _fit(), _images(200, 2)
    scores = probe.predict(_reader(tokens), len(tokens))
    train = _images(160, 0)
    mean = LogisticRegression().fit(train[0].mean(1), train[1][:, 0])
    of_mean = mean.decision_function(tokens.mean(1))[:, None]
    assert mean_auroc(scores, truth) > 0.95 > 0.9 > mean_auroc(of_mean, truth)
    # It looks at the token that makes the difference.
    looked_at = probe.attention(tokens)[::2, 0].argmax(1)
    assert (looked_at == tokens[::2, :, 0].argmax(1)).float().mean() > 0.8


def test_predictions_are_those_of_the_written_out_formula():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    probe = AttentiveProbe(
        ("a", "b"), draw(DIM), draw(DIM).abs(), draw(2, DIM), draw(2, DIM), draw(2)
    )
    tokens = draw(3, TOKENS, DIM)
    for image in range(3):
        standard = (tokens[image] - probe.mean) / probe.scale
        for label in range(2):
            shares = torch.softmax(standard @ probe.query[label] / DIM**0.5, 0)
            torch.testing.assert_close(probe.attention(tokens)[image, label], shares)
            logit = (shares @ standard) @ probe.weight[label] / DIM**0.5 + probe.bias[label]
            torch.testing.assert_close(probe.logits(tokens)[image, label], logit)


def test_unknown_targets_take_no_part_and_labels_do_not_meet():
    tokens, truth = _images(80, 0)
    validation = _images(40, 1)
    two = np.hstack([truth, np.full_like(truth, np.nan)])
    two[:2, 1] = [0, 1]
    both = fit_attentive_probe(
        ("Nodule", "other"),
        (_reader(tokens), two),
        (_reader(validation[0]), np.hstack([validation[1], validation[1] * np.nan])),
    )
    assert mean_auroc(both.predict(_reader(validation[0]), 40)[:, :1], validation[1]) > 0.9
    assert np.isfinite(both.predict(_reader(validation[0]), 40)).all()


def test_the_same_seed_gives_the_same_probe():
    first, again, other = _fit(), _fit(), _fit(seed=1)
    assert torch.equal(first.query, again.query) and not torch.equal(first.query, other.query)


def test_nothing_to_choose_by_is_said():
    tokens, truth = _images(20, 0)
    with pytest.raises(DataError, match="choose a probe by"):
        fit_attentive_probe(
            ("Nodule",), (_reader(tokens), truth), (_reader(tokens), np.full_like(truth, 1.0))
        )


def test_saved_and_read_back(tmp_path):
    probe = _fit().with_facts(encoder="e")
    probe.save(tmp_path / "p.safetensors")
    loaded = load_attentive_probe(tmp_path / "p.safetensors")
    assert (loaded.names, loaded.facts) == (probe.names, probe.facts)
    tokens = _images(4, 3)[0]
    assert torch.equal(loaded.logits(tokens), probe.logits(tokens))
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a saved attentive probe"):
        load_attentive_probe(tmp_path / "x.safetensors")
