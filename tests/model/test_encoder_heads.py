"""Probabilities, outlines and the warning: kept with the model, refused where they are foreign."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, picture, tiny_encoder

from llava_rad.encoders import EncoderOutput
from llava_rad.errors import WeightsError
from llava_rad.model import ReportModel
from llava_rad.model.configuration import EncoderReference
from llava_rad.model.encoder_heads import FILES, EncoderHeads, load_heads
from llava_rad.model.observation_head import ObservationHead, load_observation_head
from llava_rad.model.training_summary import (
    CELLS,
    TrainingSummary,
    cell_means,
    load_training_summary,
)
from llava_rad.outlines import SegmentationHead

OBSERVATIONS, SUMMARY, SEGMENTATION = FILES


def reference_of(encoder):
    return EncoderReference(encoder.name, None, encoder.fingerprint(), encoder.dim, 56)


def heads_of(encoder):
    torch.manual_seed(0)
    observations = ObservationHead(
        ("Edema", "Pneumonia"), torch.randn(2, 48), torch.randn(2), torch.tensor([1.0, 2.0])
    )
    cells = cell_means(torch.randn(40, encoder.num_tokens, 24), (4, 4))
    return EncoderHeads(
        observations, TrainingSummary.fit(cells), SegmentationHead("linear", ("heart",), 24)
    )


@pytest.fixture
def folder(tmp_path):
    encoder = tiny_encoder()
    heads_of(encoder).save(tmp_path, encoder.fingerprint())
    return tmp_path


def test_probabilities_are_those_of_a_logistic_layer():
    torch.manual_seed(0)
    head = heads_of(tiny_encoder()).observations
    seen = EncoderOutput(torch.randn(5, 24), torch.randn(5, 16, 24))
    vectors = np.hstack([seen.cls.numpy(), seen.patches.numpy().mean(axis=1)])
    logits = vectors @ head.weight.numpy().T + head.bias.numpy()
    wanted = 1 / (1 + np.exp(-logits / np.array([1.0, 2.0])))
    np.testing.assert_allclose(head.probabilities(*seen), wanted, atol=1e-6)


def test_distance_is_that_of_a_gaussian_with_few_free_directions():
    torch.manual_seed(0)
    # 3 strong directions in 16 * 2 features, over noise of standard deviation 0.1.
    strong = torch.randn(3, CELLS**2 * 2)
    drawn = torch.randn(4000, 3) @ strong + 0.1 * torch.randn(4000, CELLS**2 * 2) + 1
    summary = TrainingSummary.fit(drawn.unflatten(1, (CELLS**2, 2)))
    covariance = np.cov(drawn.numpy().T)
    off = drawn[:8].numpy() - drawn.numpy().mean(axis=0)
    off[4:] += 1
    wanted = np.einsum("nd,de,ne->n", off, np.linalg.inv(covariance), off) / off.shape[1]
    moved = torch.from_numpy(off) + drawn.mean(dim=0)
    found = summary.distance(moved.unflatten(1, (CELLS**2, 2)))
    np.testing.assert_allclose(found, wanted, rtol=0.05)
    assert found[4:].min() > 3 * found[:4].max()


def test_a_picture_upside_down_is_farther_than_itself():
    torch.manual_seed(0)
    rows = torch.linspace(-1, 1, 8)[:, None, None].expand(8, 8, 4).reshape(1, 64, 4)
    images = rows + 0.1 * torch.randn(200, 64, 4)
    summary = TrainingSummary.fit(cell_means(images, (8, 8)))
    right = summary.distance(cell_means(images[:20], (8, 8)))
    turned = summary.distance(cell_means(images[:20].flip(1), (8, 8)))
    assert right.mean() == pytest.approx(1, abs=0.3) and turned.min() > 5 * right.max()


def test_what_is_saved_with_a_model_comes_back(folder):
    encoder = tiny_encoder()
    made, again = heads_of(encoder), load_heads(folder, reference_of(encoder))
    seen = EncoderOutput(torch.randn(3, 24), torch.randn(3, 16, 24))
    torch.testing.assert_close(
        again.observations.probabilities(*seen), made.observations.probabilities(*seen)
    )
    cells = cell_means(seen.patches, (4, 4))
    torch.testing.assert_close(again.summary.distance(cells), made.summary.distance(cells))
    assert again.observations.names == ("Edema", "Pneumonia")
    assert again.segmentation.structures == ("heart",)


def test_a_model_keeps_them_in_another_number_format(tmp_path):
    tokenizer = byte_level_tokenizer()
    model = build(tokenizer, encoder=tiny_encoder())
    model.llm.save_pretrained(tmp_path / "llm")
    model.heads = heads_of(model.encoder)
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    loaded = ReportModel.from_pretrained(tmp_path / "half", base_llm=str(tmp_path / "llm"))
    assert loaded.heads.summary is not None and loaded.heads.observations is not None
    mask = loaded.outline(picture())["heart"]
    assert mask.shape == (70, 60) and mask.dtype == bool


def test_a_model_without_them_tells_nothing(tmp_path):
    found = load_heads(tmp_path, reference_of(tiny_encoder()))
    assert (found.observations, found.summary, found.segmentation) == (None, None, None)
    assert build(byte_level_tokenizer()).outline(picture()) == {}


@pytest.mark.parametrize("name", FILES)
def test_those_of_another_encoder_are_refused(folder, name):
    for other in FILES:
        if other != name:
            (folder / other).unlink()
    with pytest.raises(WeightsError, match="another encoder") as caught:
        load_heads(folder, reference_of(tiny_encoder(seed=1)))
    assert caught.value.where == str(folder / name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["nothing", "another head"])
def test_foreign_files_are_refused(folder, name, content):
    other = FILES[(FILES.index(name) + 1) % 3]
    (folder / name).write_bytes(b"" if content == "nothing" else (folder / other).read_bytes())
    with pytest.raises(WeightsError, match="not a saved"):
        load_heads(folder, reference_of(tiny_encoder()))


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    head = heads_of(tiny_encoder()).observations
    file = tmp_path / OBSERVATIONS
    for wrong in (
        ObservationHead(("Edema",), head.weight, head.bias, head.temperature),
        ObservationHead(head.names, head.weight, head.bias, head.temperature - 1),
        ObservationHead(head.names, head.weight, head.bias[:1], head.temperature),
    ):
        wrong.save(file)
        with pytest.raises(WeightsError, match="not a saved observation head"):
            load_observation_head(file)
    summary = heads_of(tiny_encoder()).summary
    replace(summary, mean=summary.mean[:3]).save(tmp_path / SUMMARY)
    with pytest.raises(WeightsError, match="not a saved summary"):
        load_training_summary(tmp_path / SUMMARY)
