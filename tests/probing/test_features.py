import shutil

import pytest
import torch
from helpers.disks import small_disk
from helpers.tiny_models import tiny_encoder

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, ImageError
from llava_rad.images import load_radiograph
from llava_rad.probing import extract_features, read_examples


@pytest.fixture
def paths(probing_data):
    return [e.path for e in read_examples([probing_data]).all][:20]


@pytest.fixture
def encoder():
    return tiny_encoder()


def expected(encoder, paths):
    pixels = torch.stack([encoder.preprocessing(load_radiograph(p)) for p in paths])
    with torch.no_grad():
        return encoder.encode(pixels)


def test_vectors_are_the_encoders_own(encoder, paths):
    features = extract_features(encoder, paths)
    output = expected(encoder, paths)
    torch.testing.assert_close(features.cls, output.cls)
    torch.testing.assert_close(features.mean, output.patches.mean(1))
    assert features.pooled("cls+mean").shape == (20, 48)
    with pytest.raises(ConfigError, match="cls, mean"):
        features.pooled("max")


def test_encodes_nothing_that_is_in_the_cache(encoder, paths, tmp_path, monkeypatch):
    first = extract_features(encoder, paths, cache=tmp_path)
    renamed = shutil.copy(paths[3], tmp_path / "renamed.png")
    monkeypatch.setattr(ImageEncoder, "encode", None)
    again = extract_features(encoder, [renamed, *paths[:3]], cache=tmp_path)
    assert torch.equal(again.cls, first.cls[[3, 0, 1, 2]])


def test_another_encoder_or_preprocessing_has_vectors_of_its_own(encoder, paths, tmp_path):
    first = extract_features(encoder, paths[:2], cache=tmp_path)
    other = extract_features(tiny_encoder(seed=1), paths[:2], cache=tmp_path)
    assert not torch.allclose(first.cls, other.cls)
    assert len(list(tmp_path.glob("vectors-*"))) == 2


def test_a_damaged_shard_is_made_again(encoder, paths, tmp_path):
    first = extract_features(encoder, paths, cache=tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    again = extract_features(encoder, paths, cache=tmp_path)
    assert torch.equal(first.mean, again.mean)


@pytest.mark.parametrize("place", [-1, 700, 20])
def test_a_flipped_bit_is_seen_and_mended_once(
    encoder, paths, tmp_path, place, caplog, monkeypatch
):
    first = extract_features(encoder, paths, cache=tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[place] ^= 16
    shard.write_bytes(content)
    again = extract_features(encoder, paths, cache=tmp_path)
    assert torch.equal(first.cls, again.cls)
    assert torch.equal(first.mean, again.mean)
    assert caplog.text.count("is made again") == 1
    monkeypatch.setattr(ImageEncoder, "encode", None)
    third = extract_features(encoder, paths, cache=tmp_path)
    assert torch.equal(third.cls, first.cls)
    assert torch.equal(third.mean, first.mean)


def test_a_full_disk_costs_the_cache_and_not_the_probe(encoder, paths, tmp_path, caplog):
    with small_disk(tmp_path / "disk", 4096) as disk:
        found = extract_features(encoder, paths, cache=disk)
    assert torch.equal(found.cls, extract_features(encoder, paths).cls)
    assert "vectors are not kept" in caplog.text


def test_a_missing_image_is_named(encoder, paths, tmp_path):
    for cache in (None, tmp_path):
        with pytest.raises(ImageError, match=r"gone\.png"):
            extract_features(encoder, [*paths[:2], "gone.png"], cache=cache)


def test_progress_is_told(encoder, paths):
    seen = []
    extract_features(encoder, paths, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(16, 20), (20, 20)]
