"""Safetensors files that are written piece by piece."""

import pytest
import torch
from safetensors.torch import load_file

from llava_rad.errors import DataError
from llava_rad.tensor_files import read_tensors_and_metadata
from llava_rad.tensor_stream import TensorStream

NAMES = ("large", "small")


def rows(first, count, dtype=torch.float32):
    numbers = torch.arange(first * 6, (first + count) * 6, dtype=torch.float32)
    return {
        "large": numbers.reshape(count, 2, 3).to(dtype),
        "small": torch.arange(first, first + count, dtype=torch.float32)[:, None].to(dtype),
    }


def stream(file, **options):
    return TensorStream(file, {"made": 1} | options.pop("identity", {}), NAMES, 200, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pieces_become_one_file_also_after_a_kill(tmp_path, dtype):
    file = tmp_path / "out.safetensors"
    first = stream(file)
    first.append(rows(0, 3, dtype), ["a"])
    first.append(None, ["unreadable"])
    first.append(rows(3, 1, dtype), ["b"])
    # Killed while the next piece was being written: no close, half a row, half a line.
    with (first.folder / "large").open("ab") as cut:
        cut.write(b"half")
    with (first.folder / "journal").open("ab") as cut:
        cut.write(b"0000")
    with stream(file) as second:
        assert second.done == [["a"], ["unreadable"], ["b"]]
        second.append(rows(4, 2, dtype), ["c"])
        second.finish({"about": "ä" * 20})
    whole = rows(0, 6, dtype)
    plain = load_file(file)
    assert plain.keys() == whole.keys()
    for name, expected in whole.items():
        assert torch.equal(plain[name], expected)
        assert plain[name].dtype == dtype
    # This reader compares the checksums.
    _, about = read_tensors_and_metadata(file)
    assert about["about"] == "ä" * 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.safetensors"]


def test_other_settings_are_named_and_thrown_away_when_told(tmp_path):
    file = tmp_path / "out.safetensors"
    with stream(file) as first:
        first.append(rows(0, 1), "a")
    with pytest.raises(DataError, match="made: 1 there, 2 now") as caught:
        stream(file, identity={"made": 2})
    assert caught.value.kind == "other_run"
    with stream(file, identity={"made": 2}, begin_anew=True) as anew:
        assert anew.done == []
        anew.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*NAMES, "run.json"])
def test_damage_is_seen_before_the_file_is_made(tmp_path, name):
    file = tmp_path / "out.safetensors"
    with stream(file) as first:
        first.append(rows(0, 4), "a")
        part = first.folder / name
    content = bytearray(part.read_bytes())
    content[-6] ^= 4
    part.write_bytes(content)
    with pytest.raises(DataError, match="damaged"), stream(file) as second:
        second.finish({})
    assert not file.exists()


def test_a_deleted_folder_is_one_error(tmp_path):
    file = tmp_path / "out.safetensors"
    with stream(file) as first:
        first.append(rows(0, 1), "a")
        for entry in first.folder.iterdir():
            entry.unlink()
        with pytest.raises(DataError, match="deleted meanwhile"):
            first.append(rows(1, 1), "b")
