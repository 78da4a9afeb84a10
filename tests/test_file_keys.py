"""How caches know a file again."""

import os
from pathlib import Path

import pytest

from llava_rad.errors import ImageError
from llava_rad.file_keys import ContentKeys, stamp_key

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_content_is_the_key_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["a.png", os.fsdecode(b"b\xff.png"), "c.png"]
    paths = [tmp_path / name for name in names]
    for path, content in zip(paths, (b"", b"", b"x"), strict=True):
        path.write_bytes(content)
    memory = tmp_path / "cache" / "files.json"
    keys = ContentKeys(memory)
    assert [keys(path) for path in paths[:2]] == [EMPTY] * 2 != [keys(paths[2])] * 2
    keys.remember()
    memory.read_bytes().decode("utf-8")

    # Another process added its own; a damaged memory is only a longer way.
    other = ContentKeys(memory)
    (tmp_path / "d.png").write_bytes(b"d")
    other(tmp_path / "d.png")
    other.remember()
    monkeypatch.setattr("llava_rad.file_keys.sha256", lambda path: "read")
    again = ContentKeys(memory)
    assert again(str(paths[1])) == EMPTY and again(tmp_path / "d.png") != "read"
    memory.write_text("[1")
    assert ContentKeys(memory)(paths[0]) == "read"


def test_a_changed_file_of_the_same_size_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    keys = ContentKeys()
    first, stamp = keys(path), stamp_key(path)
    time = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(time, time + 1))  # one nanosecond later
    assert keys(path) != first and stamp_key(path) != stamp
    monkeypatch.chdir(tmp_path)
    assert stamp_key(path) == stamp_key("a.png")
    assert stamp_key(tmp_path / "b.png") != stamp_key(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["gone.png", "x" * 300, "nul\0"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="the image cannot be read"):
        ContentKeys()(tmp_path / name)
    stamp_key(tmp_path / name).encode()
