"""Images that cannot be read are found before the first step; caches notice changed files."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from llava_rad.data.checking import settle_unreadable
from llava_rad.dinov2.config import DataConfig
from llava_rad.dinov2.image_cache import build_cache
from llava_rad.dinov2.image_sources import ImageFiles, TarShards
from llava_rad.dinov2.readable import open_readable
from llava_rad.errors import DataError


def write(path, gray):
    pixels = np.full((40, 40), gray, np.uint8)
    pixels[:20] = 0
    Image.fromarray(pixels).save(path, compress_level=0)  # one size for all


@pytest.fixture
def images(tmp_path):
    names = ["a.png", "b.png", os.fsdecode(b"c\xff.png"), "d.png", "e.png"]
    paths = [tmp_path / name for name in names]
    for number, path in enumerate(paths):
        write(path, 50 + number)
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[3].write_text("no picture")
    return paths


@pytest.mark.parametrize("cache_size", [32, None])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_listed_and_left_out(images, tmp_path, cache_size, workers):
    data = DataConfig(cache_size=cache_size, workers=workers)
    for _ in range(2):  # the second time from what was found before
        source, skipped = open_readable(ImageFiles(images), data, tmp_path / "cache")
        assert list(skipped) == [str(images[1]), str(images[3])]
        assert [source.name(i) for i in range(len(source))] == [str(images[i]) for i in (0, 2, 4)]
        assert source.read(1).max() == 255
    said = []
    settle_unreadable(skipped, 5, leave_out=True, say=said.append)
    assert [str(images[1]) in said[0], str(images[3]) in said[1]] == [True, True]
    assert said[2] == "left out          2 of 5 images cannot be read"
    with pytest.raises(DataError, match=r"2 of 5 images cannot be read: .*b\.png, .*d\.png"):
        settle_unreadable(skipped, 5, leave_out=False, say=said.append)
    settle_unreadable({}, 5, leave_out=False, say=said.append)
    # A file that was mended is looked at again.
    write(images[1], 99)
    source, skipped = open_readable(ImageFiles(images), data, tmp_path / "cache")
    assert list(skipped) == [str(images[3])] and len(source) == 4


def later(path, content):
    """Other content of the same size, a nanosecond later."""
    assert len(content) == path.stat().st_size
    time = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(time, time + 1))


def test_a_file_exported_again_with_the_same_size_is_not_taken_from_the_cache(tmp_path):
    path = tmp_path / "a.png"
    write(path, 100)
    negative = Image.fromarray(255 - np.asarray(Image.open(path)))
    old = build_cache(ImageFiles([path]), tmp_path / "cache", 40).read(0).copy()
    buffer = io.BytesIO()
    negative.save(buffer, "PNG", compress_level=0)
    later(path, buffer.getvalue())
    new = build_cache(ImageFiles([path]), tmp_path / "cache", 40).read(0)
    np.testing.assert_array_equal(new, 255 - old)


def test_a_shard_that_changed_has_another_fingerprint_and_content_decides(tmp_path):
    dicom_like = b"\0" * 128 + b"DICM" + b"\0" * 64
    picture = io.BytesIO()
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(picture, "PNG")
    members = {
        "1.png": picture.getvalue(),
        "2.img": picture.getvalue(),
        "3": dicom_like,
        "1.json": b"{}",
        "2.cls": b"7",
        os.fsdecode(b"4\xff.png"): picture.getvalue(),
    }
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = TarShards(shard)
    assert source.names == ["1.png", "2.img", "3", os.fsdecode(b"4\xff.png")]
    assert {reason: len(names) for reason, names in source.passed_over.items()} == {
        "companion": 1,
        "no_picture": 1,
    }
    assert source.read(1).shape == (40, 40)
    fingerprint = source.fingerprint()
    assert TarShards(shard).fingerprint() == fingerprint
    content = bytearray(shard.read_bytes())
    content[source.places[0][1] + 60] ^= 1
    later(shard, bytes(content))
    assert TarShards(shard).fingerprint() != fingerprint
