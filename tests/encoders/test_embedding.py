"""Encoders take pictures of any form and give arrays."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_encoder
from PIL import Image

from llava_rad.encoders import load_encoder
from llava_rad.errors import ConfigError, ImageError
from llava_rad.images import load_radiograph


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{i}.png" for i in range(5)]
    for path in found:
        Image.fromarray(rng.integers(0, 256, (64, 60), dtype=np.uint8)).save(path)
    return found


def test_rows_are_the_encoders_tokens(encoder, paths):
    inputs = torch.stack([encoder.preprocessing(load_radiograph(path)) for path in paths])
    with torch.inference_mode():
        expected = encoder.encode(inputs)
    for size in (2, 8):
        vectors = encoder.embed(paths, batch_size=size)
        tokens = encoder.patches(iter(paths), batch_size=size)
        assert vectors.dtype == tokens.dtype == np.float32
        np.testing.assert_allclose(vectors, expected.cls, atol=1e-5)
        np.testing.assert_allclose(tokens, expected.patches, atol=1e-5)


def test_one_picture_of_any_form_is_a_row(encoder, paths):
    expected = encoder.embed(paths)[:1]
    radiograph = load_radiograph(paths[0])
    forms = (str(paths[0]), paths[0].read_bytes(), Image.open(paths[0]), radiograph)
    for form in (*forms, np.asarray(radiograph), np.array([str(paths[0])])):
        np.testing.assert_allclose(encoder.embed(form), expected, atol=1e-5)


def test_shapes_without_pictures_and_numbers_of_short_formats(paths):
    encoder = tiny_encoder().bfloat16()
    assert encoder.embed([]).shape == (0, 24)
    assert encoder.patches([]).shape == (0, 16, 24)
    assert encoder.embed(paths[0]).dtype == np.float32


def test_a_picture_that_cannot_be_read_is_named(encoder, paths):
    paths[3].write_bytes(b"")
    with pytest.raises(ImageError, match=r"3\.png"):
        encoder.embed(paths, batch_size=2)


def test_the_bundled_models_encoder_has_its_name():
    encoder = load_encoder("mini", dtype="auto", device="cpu")
    assert (encoder.name, encoder.dim, encoder.dtype) == ("mini", 192, torch.float32)
    with pytest.raises(ConfigError, match="revision"):
        load_encoder("mini", revision="main")
