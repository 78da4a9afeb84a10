"""Maps of heads: exact sums, the place of a planted signal, and which files are heads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_encoder

from llava_rad.encoders import EncoderOutput
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.head_maps import (
    AttentiveHead,
    LinearHead,
    grad_cam,
    load_label_head,
)
from llava_rad.model.observation_head import ObservationHead
from llava_rad.probing import AttentiveProbe, LinearProbe, PixelEncoder, encoder_facts

NAMES, DIM, SIDE = ("Edema", "Nodule"), 24, 4


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def seen(encoder):
    torch.manual_seed(3)
    with torch.inference_mode():
        return encoder.encode(torch.randn(3, 3, 56, 56))


def observation_head(**facts):
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 2 * DIM, generator=draw)
    return ObservationHead(
        NAMES, weight, torch.tensor([0.3, -1.0]), torch.tensor([1.5, 0.5]), facts
    )


def linear_probe(pooling, **facts):
    generator = np.random.default_rng(2)
    dim = 2 * DIM if pooling == "cls+mean" else DIM
    return LinearProbe(
        "binary",
        NAMES,
        generator.normal(size=(2, dim)),
        np.array([0.5, -0.25]),
        {"pooling": pooling, **facts},
    )


def attentive_probe(**facts):
    draw = torch.Generator().manual_seed(4)
    query, weight = torch.randn(2, 2, DIM, generator=draw)
    mean = torch.randn(DIM, generator=draw)
    return AttentiveProbe(NAMES, mean, mean.abs() + 0.5, query, weight, torch.ones(2), facts)


def test_shares_of_an_observation_head_sum_to_its_logit(seen):
    head = observation_head()
    mapped = LinearHead.of_observations(head)
    sums = mapped.patch_shares(seen.patches).sum(-1) + mapped.cls_share(seen.cls) + mapped.bias
    expected = torch.logit(head.probabilities(*seen).double()).float()
    torch.testing.assert_close(sums, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mapped.logits(seen), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_shares_of_a_linear_probe_sum_to_its_logit(seen, pooling):
    probe = linear_probe(pooling)
    mapped = LinearHead.of_probe(probe)
    read = {"cls": [seen.cls], "mean": [seen.patches.mean(1)]}
    read["cls+mean"] = [seen.cls, seen.patches.mean(1)]
    chances = torch.from_numpy(probe.predict(torch.cat(read[pooling], 1).double().numpy()))
    torch.testing.assert_close(mapped.logits(seen).sigmoid().double(), chances, atol=1e-5, rtol=0)
    assert (mapped.patch_shares(seen.patches) is None) == (pooling == "cls")


def test_shares_of_an_attentive_probe_sum_to_its_logit(seen):
    probe = attentive_probe()
    mapped = AttentiveHead(probe)
    sums = mapped.patch_shares(seen.patches).sum(-1) + probe.bias
    torch.testing.assert_close(sums, probe.logits(seen.patches), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mapped.logits(seen), sums, atol=1e-5, rtol=1e-5)


def test_beside_an_average_image_the_sum_is_the_difference_of_logits(seen):
    mapped = LinearHead.of_observations(observation_head())
    mean, cls = torch.randn(2, DIM)
    average = EncoderOutput(cls[None], mean[None, None])
    sums = mapped.patch_shares(seen.patches, mean).sum(-1) + mapped.cls_share(seen.cls, cls)
    torch.testing.assert_close(
        sums, mapped.logits(seen) - mapped.logits(average), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("make", ["linear", "attentive"])
def test_the_map_of_a_planted_signal_peaks_there(make):
    tokens = 0.1 * torch.randn(2, SIDE * SIDE, DIM, generator=torch.Generator().manual_seed(0))
    tokens[0, 6, 5] += 4.0
    tokens[1, 13, 5] += 4.0
    direction = torch.zeros(2, DIM)
    direction[1, 5] = 1.0
    zero = torch.zeros(2)
    if make == "linear":
        head = LinearHead(NAMES, None, direction, zero)
    else:
        plain = AttentiveProbe(
            NAMES, torch.zeros(DIM), torch.ones(DIM), 5 * direction, direction, zero
        )
        head = AttentiveHead(plain)
    shares = head.only([1]).patch_shares(tokens)
    assert shares.shape == (2, 1, SIDE * SIDE)
    assert shares[:, 0].argmax(-1).tolist() == [6, 13]


def test_grad_cam_is_that_of_finite_differences(encoder):
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))
    weight = torch.randn(DIM, generator=torch.Generator().manual_seed(6))
    found = grad_cam(encoder, pixels, weight)
    assert found.shape == (2, SIDE, SIDE) and (found >= 0).all() and found.max() > 0

    model = encoder.model
    with torch.inference_mode():
        before = model(pixels, output_hidden_states=True).hidden_states[-2].double()
    block, norm = model.encoder.layer[-1].double(), model.layernorm.double()

    def explained(tokens):
        found = block(tokens)
        found = found[0] if isinstance(found, tuple) else found
        return norm(found)[:, 0] @ weight.double()

    slopes, step = torch.zeros(2, DIM, dtype=torch.double), 1e-5
    with torch.inference_mode():
        for channel in range(DIM):
            # The mean over patches of the slopes of one channel is a slope along all patches.
            moved = torch.zeros_like(before)
            moved[:, 1:, channel] = step
            slopes[:, channel] = explained(before + moved) - explained(before - moved)
        slopes /= 2 * step * SIDE * SIDE
        expected = (before[:, 1:] * slopes[:, None]).sum(-1).clamp_min(0)
    model.float()
    torch.testing.assert_close(found.flatten(1).double(), expected, atol=1e-4, rtol=1e-3)


def test_grad_cam_follows_the_layer_that_is_read():
    read_before = tiny_encoder()
    read_before.layer = -2
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(5))
    assert grad_cam(read_before, pixels, torch.ones(DIM)).shape == (1, SIDE, SIDE)


def test_grad_cam_of_pixels_is_refused():
    with pytest.raises(ModelError, match="blocks of a vision transformer"):
        grad_cam(PixelEncoder(56), torch.zeros(1, 3, 56, 56), torch.ones(PixelEncoder(56).dim))


@pytest.mark.parametrize("make", [observation_head, attentive_probe, linear_probe])
def test_saved_heads_are_read(encoder, tmp_path, make):
    pooling = ("cls+mean",) if make is linear_probe else ()
    make(*pooling, encoder=encoder_facts(encoder)).save(tmp_path / "head.safetensors")
    head = load_label_head(tmp_path / "head.safetensors", encoder, ["Nodule"])
    assert head.names == ("Nodule",)
    assert load_label_head(tmp_path / "head.safetensors", encoder).names == NAMES
    with pytest.raises(ConfigError, match="Choose among Edema, Nodule"):
        load_label_head(tmp_path / "head.safetensors", encoder, ["Mass"])
    with pytest.raises(WeightsError, match="another encoder"):
        load_label_head(tmp_path / "head.safetensors", tiny_encoder(seed=1))


def test_other_files_are_no_heads(encoder, tmp_path):
    file = tmp_path / "probe.safetensors"
    number = replace(linear_probe("mean"), kind="number")
    for probe in (number, linear_probe("cls", fine_tuned=True)):
        probe.with_facts(encoder=encoder_facts(encoder)).save(file)
        with pytest.raises(WeightsError, match="not of binary labels on a frozen encoder"):
            load_label_head(file, encoder)
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a head of labels"):
        load_label_head(file, encoder)
