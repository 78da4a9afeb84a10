"""The feature store: right tokens or none, whatever happened to its files."""

import multiprocessing
import os
import pickle
import shutil
import signal
import types

import numpy as np
import pytest
import torch
from helpers.disks import small_disk
from helpers.tiny_models import tiny_encoder
from helpers.waiting import PATIENCE
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from llava_rad import features, file_keys
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, ImageError
from llava_rad.features import PATCHES, VECTORS, FeatureStore
from llava_rad.files import write_atomically
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


def never(_store, batches):
    assert not batches, "the encoder was run"
    yield from ()


def shards(cache):
    return sorted(cache.folder.glob("*.safetensors"))


def check(cache, pictures):
    """Everything is there, right to the rounding of bfloat16."""
    read = cache.read(pictures)
    assert read.dtype == torch.bfloat16
    for row, path in zip(read, pictures, strict=True):
        assert torch.equal(row, fresh(cache.encoder, path).bfloat16())


def test_images_are_encoded_once(tmp_path, encoder, pictures, monkeypatch):
    cache = FeatureStore(tmp_path / "cache", encoder)
    assert cache.missing(pictures) == pictures
    assert cache.fill(pictures) == 5
    check(cache, pictures[::-1])
    assert cache.bytes_per_image == 16 * 24 * 2

    monkeypatch.setattr(FeatureStore, "_encode", never)
    again = FeatureStore(tmp_path / "cache", encoder)
    assert again.fill(pictures) == 0
    check(again, pictures)


def test_the_content_counts_and_not_the_name(tmp_path, encoder, pictures):
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures)
    copied = shutil.copy(pictures[0], tmp_path / "copied.png")
    assert str(copied) in cache
    shutil.copy(pictures[1], pictures[0])
    check(cache, pictures)
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(pictures[2])
    assert cache.missing(pictures) == [pictures[2]]
    check(cache, pictures)


def test_another_encoder_or_preprocessing_has_a_cache_of_its_own(tmp_path, encoder, pictures):
    FeatureStore(tmp_path / "cache", encoder).fill(pictures)
    other = tiny_encoder(seed=1)
    cache = FeatureStore(tmp_path / "cache", other)
    assert cache.missing(pictures) == pictures
    check(cache, pictures)
    changed = tiny_encoder()
    changed.preprocessing = Preprocessing(image_size=56, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert FeatureStore(tmp_path / "cache", changed).missing(pictures) == pictures


@pytest.mark.parametrize("damage", ["cut", "garbage", "one bit", "foreign", "shape", "gone"])
def test_a_damaged_or_foreign_shard_is_noticed_and_made_again(tmp_path, encoder, pictures, damage):
    cache = FeatureStore(tmp_path / "cache", encoder)
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
        other = FeatureStore(tmp_path / "other", tiny_encoder(seed=1))
        other.fill(pictures)
        shutil.copy(shards(other)[0], shard)
    elif damage == "shape":
        save_file({"patches": load_file(shard)["patches"][:, :3].contiguous()}, shard)
    else:
        shard.unlink()

    again = FeatureStore(tmp_path / "cache", encoder)
    check(again, pictures)
    assert bool(again.rejected) == (damage != "gone")
    # The repair lasts.
    third = FeatureStore(tmp_path / "cache", encoder)
    check(third, pictures)
    assert not third.rejected


def test_a_shard_damaged_while_in_use_is_noticed(tmp_path, encoder, pictures):
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures)
    (shard,) = shards(cache)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.unlink()
    shard.write_bytes(content)
    check(cache, pictures)
    assert "checksum" in cache.rejected[shard.name]


def test_a_killed_write_leaves_nothing_that_is_read_and_is_cleared(tmp_path, encoder, pictures):
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures[:2])
    run = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(cache,))
    run.start()
    run.join(30)
    assert len(list(cache.folder.glob(".*.partial"))) == 1
    again = FeatureStore(tmp_path / "cache", encoder)
    assert again.missing(pictures) == pictures[2:]
    assert not again.rejected
    again.fill(pictures)
    assert not list(cache.folder.glob(".*.partial"))


def _die_while_writing(cache):
    with write_atomically(cache.folder / "9.safetensors"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("damage", ["bit", "header"])
def test_a_clock_set_back_does_not_repeat_the_repair(
    tmp_path, encoder, pictures, damage, monkeypatch
):
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures)
    (shard,) = shards(cache)
    content = bytearray(shard.read_bytes())
    content[-3 if damage == "bit" else 20] ^= 4
    shard.write_bytes(content)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.time_ns", lambda: 0)
    check(FeatureStore(tmp_path / "cache", encoder), pictures)
    count = len(shards(cache))
    monkeypatch.setattr(FeatureStore, "_encode", never)
    third = FeatureStore(tmp_path / "cache", encoder)
    check(third, pictures)
    assert not third.rejected
    assert len(shards(third)) == count


def _as_another_user(cache, pictures, results):
    torch.set_num_threads(1)
    os.setgid(65534)
    os.setuid(65534)
    os.umask(0o022)
    own = FeatureStore(cache.folder.parent, cache.encoder)
    own.fill(pictures)
    results.put((own.read(pictures).float().sum().item(), sorted(own.rejected)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="needs root to be others")
def test_a_second_user_removes_nothing_of_the_first(tmp_path, encoder, pictures):
    """Shards that may not be read stay, damaged ones too; what is missing is added."""
    for folder in (tmp_path, *tmp_path.parents[:3]):  # a worker of xdist has a folder of its own
        folder.chmod(0o755)
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures[:2])
    cache.fill(pictures[2:4])
    secret, damaged = shards(cache)
    secret.chmod(0o600)
    damaged.write_bytes(b"nothing")
    cache.folder.chmod(0o777)
    expected = torch.stack([fresh(encoder, p).bfloat16() for p in pictures]).float().sum().item()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    user = context.Process(target=_as_another_user, args=(cache, pictures, results))
    user.start()
    assert results.get(timeout=PATIENCE) == (expected, [secret.name, damaged.name])
    user.join()
    assert secret.exists()
    assert damaged.read_bytes() == b"nothing"
    assert [s.stat().st_mode & 0o777 for s in shards(cache)] == [0o600, 0o644, 0o644]


def test_another_users_full_cache_is_read_without_writing(tmp_path, encoder, pictures, monkeypatch):
    FeatureStore(tmp_path / "cache", encoder).fill(pictures)

    def refused(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(features, "write_tensors", refused)
    monkeypatch.setattr(file_keys, "write_sealed", refused)
    monkeypatch.setattr(FeatureStore, "_encode", never)
    cache = FeatureStore(tmp_path / "cache", encoder)
    assert cache.fill(pictures) == 0
    check(cache, pictures)


def test_tokens_that_cannot_be_mended_on_disk_are_right_all_the_same(
    tmp_path, encoder, pictures, caplog
):
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures)
    shards(cache)[0].write_bytes(b"nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "write_tensors", _full)
        check(cache, pictures)
    assert "not mended" in caplog.text


def _full(*_arguments, **_options):
    raise OSError(28, "No space left on device")


def test_a_really_full_disk_is_one_message(tmp_path, encoder, pictures, monkeypatch):
    with small_disk(tmp_path / "disk", 8192) as disk:
        cache = FeatureStore(disk, encoder)
        monkeypatch.setattr(cache, "_check_space", lambda _: cache.folder.mkdir())
        (disk / "ballast").write_bytes(bytes(4096))
        with pytest.raises(DataError, match=r"cannot be written.*data\.cache_folder"):
            cache.fill(pictures)
        assert not list(cache.folder.iterdir())


def test_processes_fill_their_shares_and_see_all(tmp_path, encoder, pictures, monkeypatch):
    monkeypatch.setattr(features, "BATCH", 2)
    caches = [FeatureStore(tmp_path / "cache", encoder) for _ in range(2)]
    filled = [c.fill(pictures, rank=r, processes=2) for r, c in enumerate(caches)]
    assert sorted(filled) == [2, 3]
    for cache in caches:
        cache.refresh()
    monkeypatch.setattr(FeatureStore, "_encode", never)
    for cache in caches:
        check(cache, pictures)


def test_a_process_that_comes_late_still_fills_its_own_share(
    tmp_path, encoder, pictures, monkeypatch
):
    monkeypatch.setattr(features, "BATCH", 2)
    first = FeatureStore(tmp_path / "cache", encoder)
    assert first.fill(pictures, rank=0, processes=2) == 3
    late = FeatureStore(tmp_path / "cache", encoder)
    assert late.fill(pictures, rank=1, processes=2) == 2
    first.refresh()
    assert not first.missing(pictures) and not late.missing(pictures)


def test_large_sets_lie_in_several_shards(tmp_path, encoder, pictures, monkeypatch):
    monkeypatch.setattr(features, "_SHARD_BYTES", 2 * 16 * 24 * 2)
    monkeypatch.setattr(features, "BATCH", 2)
    told = []
    cache = FeatureStore(tmp_path / "cache", encoder)
    cache.fill(pictures, progress=lambda done, total: told.append((done, total)))
    assert len(shards(cache)) == 3
    assert told == [(2, 5), (4, 5), (5, 5)]
    check(FeatureStore(tmp_path / "cache", encoder), pictures)


def test_a_small_or_full_disk_is_one_message(tmp_path, encoder, pictures, monkeypatch):
    cache = FeatureStore(tmp_path / "cache", encoder)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features, "write_tensors", full)
        with pytest.raises(DataError, match=r"No space left on device.*data\.cache_folder"):
            cache.fill(pictures)
    assert not shards(cache)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="patches of 5 images take") as caught:
        cache.fill(pictures)
    assert caught.value.kind == "disk_full"


def test_a_missing_image_is_named(tmp_path, encoder, pictures):
    cache = FeatureStore(tmp_path / "cache", encoder)
    with pytest.raises(ImageError, match=r"gone\.png: the image cannot be read"):
        cache.fill([*pictures, str(tmp_path / "gone.png")])


def test_kinds_lie_side_by_side_and_leave_each_other_alone(tmp_path, encoder, pictures):
    patches = FeatureStore(tmp_path, encoder)
    vectors = FeatureStore(tmp_path, encoder, VECTORS)
    for store in (patches, vectors):
        store.fill(pictures)
    for kind in (PATCHES, VECTORS):
        again = FeatureStore(tmp_path, encoder, kind)
        assert not again.missing(pictures) and not again.rejected
    read = vectors.read(pictures)
    assert (read.dtype, read.shape) == (torch.float32, (5, 2, 24))
    with torch.inference_mode():
        inputs = [encoder.preprocessing(load_radiograph(path)) for path in pictures]
        output = encoder.encode(torch.stack(inputs))
    torch.testing.assert_close(read[:, 0], output.cls)
    torch.testing.assert_close(read[:, 1], output.patches.mean(1))


def test_stamps_know_an_image_without_reading_it(tmp_path, encoder, pictures, monkeypatch):
    FeatureStore(tmp_path, encoder, keys="stamp").fill(pictures)
    monkeypatch.setattr(file_keys, "sha256", never)
    store = FeatureStore(tmp_path, encoder, keys="stamp")
    assert not store.missing(pictures)
    renamed = shutil.copy(pictures[0], tmp_path / "renamed.png")
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(pictures[2])
    assert store.missing([*pictures, str(renamed)]) == [pictures[2], str(renamed)]
    check(store, pictures)


def rows_by_image(store):
    """Bytes of each image's row."""
    found = {}
    for key, place in store._places.items():
        with place.shard.open("rb") as file:
            file.seek(place.offset)
            found[key] = file.read(store.bytes_per_image)
    return found


def test_a_killed_fill_resumes_with_the_same_bytes_in_any_number_of_processes(
    tmp_path, encoder, pictures, monkeypatch
):
    monkeypatch.setattr(features, "BATCH", 2)
    monkeypatch.setattr(features, "_SHARD_BYTES", 1)
    whole = FeatureStore(tmp_path / "whole", encoder)
    whole.fill(pictures)
    killed = FeatureStore(tmp_path / "killed", encoder)
    write, written = FeatureStore._write, []

    def write_once(store, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(write(store, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "_write", write_once)
        with pytest.raises(KeyboardInterrupt):
            killed.fill(pictures)
    resumed = [FeatureStore(tmp_path / "killed", encoder) for _ in range(2)]
    assert [s.fill(pictures, rank=r, processes=2) for r, s in enumerate(resumed)] == [1, 2]
    resumed[0].refresh()
    assert rows_by_image(resumed[0]) == rows_by_image(whole)


def test_workers_find_and_this_process_mends(tmp_path, encoder, pictures, monkeypatch):
    """What a worker does not find is encoded once, though it goes on to look where it looked."""
    store = FeatureStore(tmp_path / "cache", encoder)
    store.fill(pictures[:4])
    (shard,) = shards(store)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4  # of the last row
    shard.write_bytes(content)
    real, encoded = FeatureStore._encode, []
    monkeypatch.setattr(FeatureStore, "_encode", lambda s, b: encoded.extend(b) or real(s, b))
    finds = _Finds(pickle.loads(pickle.dumps(store)), pictures)  # as a worker that is not forked
    assert finds.store.encoder is None
    for rows, lost in DataLoader(finds, None, sampler=[0, 0], num_workers=1):
        assert lost == [3, 4]
        store.mend(pictures, rows, lost)
        for row, path in zip(rows, pictures, strict=True):
            assert torch.equal(row, fresh(encoder, path).bfloat16())
    assert encoded == [pictures[3:]]


class _Finds(Dataset):
    def __init__(self, store, paths):
        self.store = store
        self.paths = paths

    def __getitem__(self, _):
        return self.store.find(self.paths)


def test_an_accelerator_computes_in_mixed_precision_and_has_a_store_of_its_own(
    tmp_path, encoder, pictures, monkeypatch
):
    """A CPU that says that it is none."""
    plain = FeatureStore(tmp_path, encoder)
    monkeypatch.setattr(FeatureStore, "_device", types.SimpleNamespace(type="cuda"))
    mixed = FeatureStore(tmp_path, encoder)
    assert mixed.folder != plain.folder
    vectors = FeatureStore(tmp_path, encoder, VECTORS).folder
    monkeypatch.undo()
    assert FeatureStore(tmp_path, encoder, VECTORS).folder == vectors
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inputs = [encoder.preprocessing(load_radiograph(path)) for path in pictures]
        expected = encoder.encode(torch.stack(inputs)).patches
    assert torch.equal(mixed.read(pictures), expected.bfloat16())
    assert not torch.equal(plain.read(pictures), expected.bfloat16())
