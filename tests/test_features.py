"""The feature cache: right tokens or none, whatever happened to its files."""

import shutil

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_encoder
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_rad import features
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, ImageError
from llava_rad.features import FeatureCache
from llava_rad.images import load_radiograph


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (64, 60), dtype=np.uint8)).save(paths[-1])
    return paths


def fresh(encoder, path):
    with torch.inference_mode():
        return encoder.encode(encoder.preprocessing(load_radiograph(path))[None]).patches[0]


def never(*_arguments):
    raise AssertionError("the encoder was run")


def shards(cache):
    return sorted(cache.folder.glob("*.safetensors"))


def check(cache, pictures):
    """Everything is there, right to the rounding of bfloat16."""
    read = cache.read(pictures)
    assert read.dtype == torch.bfloat16
    for row, path in zip(read, pictures, strict=True):
        assert torch.equal(row, fresh(cache.encoder, path).bfloat16())


def test_images_are_encoded_once(tmp_path, encoder, pictures, monkeypatch):
    cache = FeatureCache(tmp_path / "cache", encoder)
    assert cache.missing(pictures) == pictures
    assert cache.fill(pictures) == 5
    check(cache, pictures[::-1])
    assert cache.bytes_per_image == 16 * 24 * 2

    monkeypatch.setattr(FeatureCache, "_encode", never)
    again = FeatureCache(tmp_path / "cache", encoder)
    assert again.fill(pictures) == 0
    check(again, pictures)


def test_the_content_counts_and_not_the_name(tmp_path, encoder, pictures):
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(pictures)
    copied = shutil.copy(pictures[0], tmp_path / "copied.png")
    assert str(copied) in cache
    shutil.copy(pictures[1], pictures[0])
    check(cache, pictures)
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(pictures[2])
    assert cache.missing(pictures) == [pictures[2]]
    check(cache, pictures)


def test_another_encoder_or_preprocessing_has_a_cache_of_its_own(tmp_path, encoder, pictures):
    FeatureCache(tmp_path / "cache", encoder).fill(pictures)
    other = tiny_encoder(seed=1)
    cache = FeatureCache(tmp_path / "cache", other)
    assert cache.missing(pictures) == pictures
    check(cache, pictures)
    changed = tiny_encoder()
    changed.preprocessing = Preprocessing(image_size=56, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert FeatureCache(tmp_path / "cache", changed).missing(pictures) == pictures


@pytest.mark.parametrize("damage", ["cut", "garbage", "one bit", "foreign", "shape", "gone"])
def test_a_damaged_or_foreign_shard_is_noticed_and_made_again(tmp_path, encoder, pictures, damage):
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(pictures)
    (shard,) = shards(cache)
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        shard.write_bytes(b"nothing")
    elif damage == "one bit":
        content[-3] ^= 4
        shard.write_bytes(content)
    elif damage == "foreign":
        other = FeatureCache(tmp_path / "other", tiny_encoder(seed=1))
        other.fill(pictures)
        shutil.copy(shards(other)[0], shard)
    elif damage == "shape":
        save_file({"patches": load_file(shard)["patches"][:, :3].contiguous()}, shard)
    else:
        shard.unlink()

    again = FeatureCache(tmp_path / "cache", encoder)
    check(again, pictures)
    assert bool(again.rejected) == (damage != "gone")
    # The repair lasts.
    third = FeatureCache(tmp_path / "cache", encoder)
    check(third, pictures)
    assert not third.rejected


def test_a_shard_damaged_while_in_use_is_noticed(tmp_path, encoder, pictures):
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(pictures)
    (shard,) = shards(cache)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.unlink()
    shard.write_bytes(content)
    check(cache, pictures)
    assert "checksum" in cache.rejected[shard.name]


def test_a_killed_write_leaves_nothing_that_is_read(tmp_path, encoder, pictures):
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(pictures[:2])
    (cache.folder / "0123.partial").write_bytes(b"half")
    again = FeatureCache(tmp_path / "cache", encoder)
    assert again.missing(pictures) == pictures[2:]
    assert not again.rejected


def test_processes_fill_their_shares_and_see_all(tmp_path, encoder, pictures, monkeypatch):
    caches = [FeatureCache(tmp_path / "cache", encoder) for _ in range(2)]
    filled = [c.fill(pictures, rank=r, processes=2) for r, c in enumerate(caches)]
    assert sorted(filled) == [2, 3]
    for cache in caches:
        cache.refresh()
    monkeypatch.setattr(FeatureCache, "_encode", never)
    for cache in caches:
        check(cache, pictures)


def test_a_process_that_comes_late_still_fills_its_own_share(tmp_path, encoder, pictures):
    first = FeatureCache(tmp_path / "cache", encoder)
    assert first.fill(pictures, rank=0, processes=2) == 3
    late = FeatureCache(tmp_path / "cache", encoder)
    assert late.fill(pictures, rank=1, processes=2) == 2
    first.refresh()
    assert not first.missing(pictures) and not late.missing(pictures)


def test_large_sets_lie_in_several_shards(tmp_path, encoder, pictures, monkeypatch):
    monkeypatch.setattr(features, "_SHARD_BYTES", 2 * 16 * 24 * 2)
    monkeypatch.setattr(features, "_ENCODE_BATCH", 2)
    told = []
    cache = FeatureCache(tmp_path / "cache", encoder)
    cache.fill(pictures, progress=lambda done, total: told.append((done, total)))
    assert len(shards(cache)) == 3
    assert told == [(2, 5), (4, 5), (5, 5)]
    check(FeatureCache(tmp_path / "cache", encoder), pictures)


def test_a_small_or_full_disk_is_one_message(tmp_path, encoder, pictures, monkeypatch):
    cache = FeatureCache(tmp_path / "cache", encoder)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features, "save_file", full)
        with pytest.raises(DataError, match=r"No space left on device.*data\.cache_folder"):
            cache.fill(pictures)
    assert not shards(cache)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="patch tokens of 5 images take") as caught:
        cache.fill(pictures)
    assert caught.value.kind == "disk_full"


def test_a_missing_image_is_named(tmp_path, encoder, pictures):
    cache = FeatureCache(tmp_path / "cache", encoder)
    with pytest.raises(ImageError, match=r"gone\.png: the image cannot be read"):
        cache.fill([*pictures, str(tmp_path / "gone.png")])
