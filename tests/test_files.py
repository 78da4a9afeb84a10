"""Files that are complete or not there, with the user's rights, and known when damaged."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.disks import full_at, small_disk
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llava_rad import files
from llava_rad.errors import DataError, WeightsError
from llava_rad.files import (
    clear_leftovers,
    read_sealed,
    user_cache,
    write_atomically,
    write_folder_atomically,
    write_json,
    write_sealed,
    write_text,
)
from llava_rad.tensor_files import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


@pytest.fixture
def umask():
    """Sets the umask for a test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def rights(path):
    return path.stat().st_mode & 0o777


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_all_files_have_the_rights_that_the_umask_gives(tmp_path, umask, mask, expected):
    umask(mask)
    write_tensors(TENSORS, tmp_path / "a.safetensors")
    write_text(tmp_path / "b.txt", "ä\r\n")
    write_json(tmp_path / "c.json", {"d": [1]})
    with write_folder_atomically(tmp_path / "model") as folder:
        (folder / "inside").mkdir()
        save_file(TENSORS, folder / "inside" / "e.safetensors")  # makes it 0600 by itself
    made = [tmp_path / name for name in ("a.safetensors", "b.txt", "c.json")]
    assert {rights(path) for path in [*made, tmp_path / "model/inside/e.safetensors"]} == {expected}
    assert rights(tmp_path / "model") == rights(tmp_path / "model/inside") == 0o777 & ~mask
    assert (tmp_path / "b.txt").read_bytes() == "ä\r\n".encode()
    assert json.loads((tmp_path / "c.json").read_text()) == {"d": [1]}


def test_a_replaced_file_keeps_its_rights_and_a_link_stays_one(tmp_path, umask):
    umask(0o022)
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert rights(tmp_path / "real") == 0o600
    write_text("/dev/null", "gone")


@pytest.mark.parametrize("write", [lambda f: write_text(f, "n" * 99), lambda f: write_sealed(f, 1)])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, write):
    (tmp_path / "file").write_text("before")
    full_at(monkeypatch, 1)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_folder_that_was_there(tmp_path, monkeypatch):
    def fill(text):
        with write_folder_atomically(tmp_path / "model") as folder:
            (folder / "config.json").write_text(text)

    fill("first")
    fill("second")
    full_at(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        fill("third")
    assert (tmp_path / "model" / "config.json").read_text() == "second"
    assert names(tmp_path) == ["model"]


def test_a_small_disk_that_is_really_full(tmp_path):
    with small_disk(tmp_path / "disk", 200_000) as disk:
        write_tensors(TENSORS, disk / "a.safetensors")
        with pytest.raises(WeightsError, match=r"a\.safetensors: cannot write .*No space left"):
            write_tensors({"a": torch.zeros(100_000)}, disk / "a.safetensors")
        assert torch.equal(read_tensors(disk / "a.safetensors")["a"], TENSORS["a"])
        with pytest.raises(OSError, match="No space left"):
            write_text(disk / "b", "x" * 300_000)
        assert names(disk) == ["a.safetensors"]


def test_the_file_and_its_folder_reach_the_disk_before_the_end(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush", flushed.append)
    write_text(tmp_path / "file", "x")
    assert [path.name for path in flushed] == [flushed[0].name, tmp_path.name]
    assert flushed[0].name.startswith(".file.")


def test_tensors_come_back_and_other_libraries_read_them(tmp_path):
    file = tmp_path / "a.safetensors"
    seal = write_tensors(TENSORS, file, metadata={"note": "x"})
    for found in (read_tensors(file, seal=seal), load_file(file)):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["note"] == "x"
        assert opened.metadata()["format"] == "pt"


def test_every_flipped_bit_of_a_tensor_file_is_seen(tmp_path):
    file = tmp_path / "a.safetensors"
    seal = write_tensors(TENSORS, file, metadata={"note": "x"})
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = read_tensors(file, seal=seal)
        except WeightsError as error:
            assert error.kind == "damaged_file"
        else:  # a space between two words of the header
            assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
            assert found.keys() == TENSORS.keys()


def test_another_file_in_its_place_is_seen(tmp_path):
    seal = write_tensors(TENSORS, tmp_path / "a.safetensors")
    other = write_tensors({**TENSORS, "b": torch.tensor([1, 3])}, tmp_path / "a.safetensors")
    assert other != seal
    with pytest.raises(WeightsError, match="not the file that was written"):
        read_tensors(tmp_path / "a.safetensors", seal=seal)
    save_file(TENSORS, tmp_path / "plain.safetensors")
    assert read_tensors(tmp_path / "plain.safetensors").keys() == TENSORS.keys()
    with pytest.raises(WeightsError, match="not the file that was written"):
        read_tensors(tmp_path / "plain.safetensors", seal=seal)


@pytest.mark.parametrize("value", [{"a": [1, "ä\n", None]}, [], "x", {"odd": "\udcff"}])
def test_every_flipped_bit_of_a_sealed_index_is_seen(tmp_path, value):
    file = tmp_path / "index.json"
    write_sealed(file, value)
    assert read_sealed(file) == value
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_sealed(file)
    for cut in range(len(content)):
        file.write_bytes(content[:cut])
        with pytest.raises(DataError, match="damaged"):
            read_sealed(file)


def test_a_sealed_index_is_json_for_others(tmp_path):
    write_sealed(tmp_path / "index.json", {"a": 1})
    assert json.loads((tmp_path / "index.json").read_text())["content"] == {"a": 1}


def test_leftovers_of_a_killed_process_are_cleared_and_others_stay(tmp_path):
    child = f"""
import os, signal
from pathlib import Path
from llava_rad.files import write_atomically, write_folder_atomically
folder = Path({str(tmp_path)!r})
with write_atomically(folder / "a"), write_folder_atomically(folder / "b") as b:
    (b / "inside").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", child], check=False)
    left = names(tmp_path)
    assert len(left) == 2
    with write_atomically(tmp_path / "own"):
        own = [name for name in names(tmp_path) if name.startswith(".own")]
        foreign = tmp_path / own[0].replace("own", "foreign").replace("-", "elsewhere-", 1)
        foreign.write_text("")
        (tmp_path / ".mine.partial").write_text("")
        assert sorted(clear_leftovers(tmp_path)) == left
        assert names(tmp_path) == sorted([*own, foreign.name, ".mine.partial"])
    assert names(tmp_path) == sorted([foreign.name, ".mine.partial", "own"])


def test_names_may_be_long_and_odd(tmp_path):
    name = "ä" * 120
    write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_the_users_cache_is_private_unless_placed_by_hand(tmp_path, monkeypatch, umask):
    umask(0o022)
    monkeypatch.delenv("LLAVA_RAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "llava-rad"
    assert rights(user_cache()) == 0o700
    user_cache().chmod(0o755)  # of an earlier version
    assert rights(user_cache()) == 0o700
    monkeypatch.setenv("LLAVA_RAD_CACHE", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir(mode=0o755)
    assert user_cache() == tmp_path / "shared"
    assert rights(user_cache()) == 0o755
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAVA_RAD_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match="Set LLAVA_RAD_CACHE"):
        user_cache()
