import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_encoder
from PIL import Image
from scipy.spatial.distance import cdist

from llava_rad.errors import ConfigError, DataError, ModelError, WeightsError
from llava_rad.features import FeatureStore
from llava_rad.images import load_radiograph
from llava_rad.outlines import (
    HEADS,
    SegmentationHead,
    load_head,
    predict_masks,
    seeing_whole_images,
)
from llava_rad.probing import PixelEncoder, encoder_facts, read_examples
from llava_rad.probing.masks import FolderMasks, ManifestMasks
from llava_rad.probing.overlap import dice, surface_distance
from llava_rad.probing.segmentation import (
    _shrunk,
    evaluate_head,
    segment,
)


def disc(radius, centre=(32, 32), side=64):
    rows, columns = np.mgrid[:side, :side]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_dice():
    first, second = np.zeros((2, 10, 10), bool)
    assert dice(first, second) == 1.0
    first[:5] = True
    assert dice(first, second) == 0.0
    second[:, :5] = True
    assert dice(first, second) == 0.5


def test_surface_distance_against_all_pairs_of_outline_pixels():
    first, second = disc(15), disc(18, (30, 36))

    def outline(mask):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner)

    between = cdist(outline(first), outline(second))
    expected = np.concatenate([between.min(axis=0), between.min(axis=1)]).mean()
    assert surface_distance(first, second) == pytest.approx(expected)
    assert surface_distance(second, first) == pytest.approx(expected)
    assert surface_distance(first, first) == 0
    nothing = np.zeros_like(first)
    assert math.isnan(surface_distance(first, nothing))
    assert math.isnan(surface_distance(nothing, nothing))
    # A missed structure is as far off as the image allows.
    assert surface_distance(nothing, first) == pytest.approx(64 * math.sqrt(2))
    assert surface_distance(nothing[:48], first[:48]) == 80


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)])
def test_heads_give_four_logits_a_token_and_side(kind, grid):
    head = SegmentationHead(kind, ("a", "b"), 24, width=8)
    logits = head(torch.randn(2, grid[0] * grid[1], 24), grid)
    assert logits.shape == (2, 2, 4 * grid[0], 4 * grid[1])
    logits.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_linear_head_is_one_layer_a_token():
    head = SegmentationHead("linear", ("a",), 24)
    assert sum(p.numel() for p in head.parameters()) == 25
    tokens = torch.randn(1, 16, 24)
    moved = tokens.clone()
    moved[0, 5] += 1  # row 1, column 1
    changed = (head(moved, (4, 4)) - head(tokens, (4, 4)))[0, 0].abs() > 1e-6
    assert changed[4:8, 4:8].all() and not changed[:, 12:].any() and not changed[12:].any()


@pytest.mark.parametrize("kind", HEADS)
def test_saved_heads_outline_the_same(kind, tmp_path):
    head = SegmentationHead(kind, ("a",), 24, width=8, facts={"steps": 3}).eval()
    head.mean += 0.5
    head.save(tmp_path / "head")
    again = load_head(tmp_path / "head")
    tokens = torch.randn(1, 16, 24)
    torch.testing.assert_close(head(tokens, (4, 4)), again(tokens, (4, 4)))
    assert (again.kind, again.structures, again.facts) == (kind, ("a",), {"steps": 3})


def test_no_head():
    with pytest.raises(ConfigError, match="linear, pyramid, upernet"):
        SegmentationHead("unet", ("a",), 24)
    with pytest.raises(WeightsError, match="not a saved segmentation head"):
        load_head(Path("nowhere"))


@pytest.fixture(scope="module")
def setting(probing_data, tmp_path_factory):
    encoder = seeing_whole_images(PixelEncoder(56, 14))
    cache = FeatureStore(tmp_path_factory.mktemp("tokens"), encoder)
    return encoder, read_examples([probing_data]), cache


@pytest.fixture(scope="module")
def segmented(setting):
    encoder, examples, cache = setting
    result = segment(encoder, examples, [ManifestMasks("lungs")], cache, steps=80, seeds=2)
    result.head.facts = {"encoder": encoder_facts(encoder)}
    return result


def test_an_ellipse_is_outlined(segmented):
    estimates = segmented.outcome.estimates(resamples=50)
    assert estimates["dice"].value > 0.65
    assert estimates["surface_distance"].value < 12
    assert estimates["dice"].spread is not None
    assert len(segmented.examples) == 18
    assert len(segmented.validation_dice) == 3


@pytest.mark.parametrize("value", [200, 0])
def test_masks_without_the_structure_are_refused(setting, tmp_path, value):
    """A label that no map has, and masks that are black or white all over."""
    encoder, examples, cache = setting
    for example in examples.all:
        Image.new("L", (64, 64), value).save(tmp_path / f"{Path(example.path).stem}.png")
    for label in (None, 7):
        with pytest.raises(DataError, match="masks of heart are empty or cover the whole image"):
            segment(encoder, examples, [FolderMasks("heart", tmp_path, label)], cache, steps=1)


def test_a_head_that_outlines_nothing_is_the_diagonal_off(setting, segmented):
    encoder, examples, cache = setting
    silent = SegmentationHead("linear", ("lungs",), encoder.dim)
    for parameter in silent.parameters():
        torch.nn.init.constant_(parameter, 0.0)
    silent.facts = segmented.head.facts
    outcome = evaluate_head(encoder, examples.test, [ManifestMasks("lungs")], cache, silent).outcome
    values = outcome.measured()
    assert values["missed"] == len(examples.test) == outcome.baselines()["missed"]
    # In percent of the longer side of a square image.
    assert values["surface_distance"] == pytest.approx(100 * math.sqrt(2))
    assert values["dice"] == 0


def test_the_smallest_structure_is_not_lost_on_the_grid():
    mask = np.zeros((2000, 1500), bool)
    mask[1001, 701] = True
    small = _shrunk(mask, 512, 384)
    assert small.shape == (512, 384) and small.sum() == 1
    assert small[1001 * 512 // 2000, 701 * 384 // 1500]
    assert not _shrunk(np.zeros_like(mask), 512, 384).any()


def test_a_head_tests_as_it_was_tested_in_training(setting, segmented):
    encoder, examples, cache = setting
    again = evaluate_head(encoder, examples.test, [ManifestMasks("lungs")], cache, segmented.head)
    np.testing.assert_allclose(again.outcome.dice[0], segmented.outcome.dice[0])


def test_masks_of_one_radiograph_have_its_size(setting, segmented):
    encoder, examples, _ = setting
    example = examples.test[0]
    radiograph = load_radiograph(example.path)
    masks = predict_masks(encoder, segmented.head, radiograph)
    (true,) = ManifestMasks("lungs").read(example)
    assert masks["lungs"].shape == radiograph.pixels.shape
    assert dice(masks["lungs"], true) == pytest.approx(segmented.outcome.dice[0, 0, 0], abs=0.03)


def test_padding_is_no_part_of_the_image(setting, segmented):
    encoder, examples, _ = setting
    radiograph = load_radiograph(examples.test[0].path)
    whole = predict_masks(encoder, segmented.head, radiograph)["lungs"]
    # The same picture with a black margin below: the outline stays where it is.
    tall = np.pad(radiograph.pixels, ((0, 20), (0, 0)), constant_values=127)
    larger = type(radiograph)(**{**vars(radiograph), "pixels": tall})
    padded = predict_masks(encoder, segmented.head, larger)["lungs"]
    assert padded.shape == (90, 70)
    assert dice(padded[:70], whole) > 0.7


def test_a_head_of_another_encoder_is_refused(setting, segmented, tmp_path):
    _, examples, _ = setting
    other = seeing_whole_images(tiny_encoder())
    with pytest.raises(ModelError, match="tokens of pixels, not of tiny"):
        predict_masks(other, segmented.head, load_radiograph(examples.test[0].path))


def test_whole_images_are_seen_whatever_the_encoder_cuts_off():
    encoder = tiny_encoder()
    whole = seeing_whole_images(encoder)
    assert encoder.preprocessing.geometry == "shorter_side_center_crop"
    assert whole.preprocessing.geometry == "pad_square"
    assert whole.fingerprint() != encoder.fingerprint()
    pixels = np.zeros((56, 112), np.uint8)
    pixels[:, :3] = 255  # cut off by the centre crop
    assert whole.preprocessing(pixels).max() > encoder.preprocessing(pixels).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pyramid", "upernet"])
def test_convolutional_heads_learn(setting, kind):
    encoder, examples, cache = setting
    result = segment(
        encoder, examples, [ManifestMasks("lungs")], cache, head=kind, width=16, steps=40, seeds=1
    )
    assert result.outcome.estimates(resamples=10)["dice"].value > 0.85


def test_structures_whose_masks_are_known_for_some_images_only(setting, probing_data, tmp_path):
    encoder, examples, cache = setting
    folder = tmp_path / "some"
    folder.mkdir()
    for number, path in enumerate(sorted((probing_data.parent / "masks").iterdir())):
        if number % 2:
            (folder / path.name).write_bytes(path.read_bytes())
    sources = [ManifestMasks("lungs"), FolderMasks("heart", folder)]
    result = segment(encoder, examples, sources, cache, steps=40, seeds=1)
    assert np.isnan(result.outcome.dice[0, :, 1]).sum() == 9
    values = result.outcome.estimates(resamples=10)
    assert values["dice/heart"].value > 0.6 and values["dice/lungs"].value > 0.6


def test_a_split_without_masks_is_named(setting, tmp_path):
    encoder, examples, cache = setting
    with pytest.raises(DataError, match="train split has no image with a mask"):
        segment(encoder, examples, [FolderMasks("heart", tmp_path)], cache)
    with pytest.raises(ConfigError, match="1 or more"):
        segment(encoder, examples, [ManifestMasks("lungs")], cache, steps=0)
