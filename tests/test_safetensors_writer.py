"""Safetensors files of our own: what the package reads, and the same bytes each time."""

import json
import weakref

import pytest
import torch
from safetensors import safe_open

from llava_rad.errors import WeightsError
from llava_rad.safetensors_writer import DTYPES, TensorLayout, write_safetensors
from llava_rad.tensor_files import check_tensors, read_tensors_and_metadata, write_tensors

MIXED = {
    "a.byte": torch.arange(3, dtype=torch.uint8),
    "b.bf16": torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16),
    "c.scalar": torch.tensor(7.0),
    "d.double": torch.tensor([1e300], dtype=torch.float64),
    "e.flag": torch.tensor([True, False, True]),
    "f.turned": torch.arange(6.0).reshape(2, 3).T,
}
TEXTS = {"eine": "ü 🫁", "two": '{"a": 1}', "three": "3"}


def test_the_package_reads_what_was_written(tmp_path):
    file = tmp_path / "a.safetensors"
    write_tensors(MIXED, file, metadata=TEXTS)
    with safe_open(file, framework="pt") as opened:
        assert set(opened.keys()) == MIXED.keys()
        assert {"format": "pt", **TEXTS}.items() <= opened.metadata().items()
        for name, tensor in MIXED.items():
            assert torch.equal(opened.get_tensor(name), tensor), name
            assert opened.get_tensor(name).dtype == tensor.dtype
    length = int.from_bytes(file.read_bytes()[:8], "little")
    assert length % 8 == 0
    header = json.loads(file.read_bytes()[8 : 8 + length])
    for name, tensor in MIXED.items():  # readers map them where they lie
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    turned = dict(reversed(MIXED.items()))
    for number, tensors in enumerate([MIXED, turned] * 4):
        write_tensors(tensors, tmp_path / f"{number}", metadata=TEXTS)
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(8)}) == 1


def test_every_dtype_of_the_format_comes_back(tmp_path):
    for name in DTYPES:
        dtype = getattr(torch, name.removeprefix("torch."))
        tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
        write_tensors({"x": tensor}, tmp_path / "x.safetensors")
        found, _ = read_tensors_and_metadata(tmp_path / "x.safetensors")
        assert found["x"].dtype == dtype
        assert torch.equal(found["x"].float(), tensor.float())


def test_one_tensor_is_held_at_a_time(tmp_path):
    """Each is let go before the next is asked for."""
    held, most = set(), 0

    def made():
        nonlocal most
        for number in range(20):
            tensor = torch.full((1000,), float(number))
            held.add(number)
            weakref.finalize(tensor, held.discard, number)
            most = max(most, len(held))
            given = [(f"{number:02}", tensor)]
            del tensor
            yield given.pop()

    layout = {f"{number:02}": TensorLayout(torch.float32, [1000]) for number in range(20)}
    write_safetensors(tmp_path / "x", layout, made(), lambda sums: {"format": "pt"})
    assert (most, len(held)) == (1, 0)
    with safe_open(tmp_path / "x", framework="pt") as opened:
        assert all(float(opened.get_tensor(f"{n:02}")[999]) == n for n in range(20))


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("x", torch.zeros(3))],
        [("x", torch.zeros(2, dtype=torch.float64))],
        [("x", torch.zeros(2)), ("x", torch.zeros(2))],
    ],
)
def test_what_was_not_announced_is_no_file(tmp_path, given):
    layout = {"x": TensorLayout(torch.float32, [2])}
    with pytest.raises(ValueError, match="x is"):
        write_safetensors(tmp_path / "x", layout, given, lambda sums: {})


def test_a_check_notices_each_flipped_bit(tmp_path):
    file = tmp_path / "a.safetensors"
    seal = write_tensors(MIXED, file, metadata=TEXTS)
    check_tensors(file, seal=seal)
    whole = file.read_bytes()
    text = whole.index(b"eine") + 10
    for place in (text, whole.index(b'"checksums"') + 40, len(whole) - 1, len(whole) - 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match="is damaged"):
            check_tensors(file, seal=seal)
    file.write_bytes(whole)
    with pytest.raises(WeightsError, match="not the file that was written"):
        check_tensors(file, seal="00000000")
