"""Writing a safetensors file one tensor at a time: the same bytes each time, and little memory.

The package's own writer needs all tensors at once and puts the texts of the header in another
order each time. Here names, dtypes and shapes are known first, the tensors come one by one in any
order, their checksums are taken on the way to the disk, and the header is written last.
"""

import ctypes
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

#: The format's names of torch's dtypes.
DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_BLOCK = 1 << 24


def torch_dtype(name: str) -> "torch.dtype":
    """The dtype of a name of the format."""
    import torch

    full = next(k for k, v in DTYPES.items() if v == name)
    dtype: torch.dtype = getattr(torch, full.removeprefix("torch."))
    return dtype


class TensorLayout(NamedTuple):
    """What a tensor takes in a file."""

    dtype: "torch.dtype"
    shape: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    file: Path,
    layout: Mapping[str, TensorLayout],
    tensors: Iterable[tuple[str, "torch.Tensor"]],
    describe: Callable[[Mapping[str, str]], Mapping[str, str]],
) -> dict[str, str]:
    """Write a file.

    Args:
        file: written in place.
        layout: of every tensor, by name.
        tensors: names and values, each name once, on any device; one is held at a time.
        describe: the texts of the header, from the checksums by name; of one length for all
            checksums.

    Returns:
        The checksums (:func:`checksum_of`) by name.

    Raises:
        OSError: the disk refuses.
        ValueError: tensors are not those of ``layout``.
    """
    # Large items first, so that each begins at a multiple of its size, as readers wish.
    ordered = sorted(layout.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    offsets, end = {}, 0
    for name, entry in ordered:
        offsets[name] = end
        end += entry.size
    blank = header(ordered, describe(dict.fromkeys(layout, "0" * 8)))
    sums: dict[str, str] = {}
    with file.open("wb", buffering=0) as opened:
        for name, tensor in tensors:
            expected = layout[name]
            if name in sums or (tensor.dtype, list(tensor.shape)) != (
                expected.dtype,
                list(expected.shape),
            ):
                raise ValueError(f"{name} is not what was announced")
            opened.seek(len(blank) + offsets[name])
            sums[name] = checksum_of(tensor, lambda block: write_whole(opened, block))
            del tensor  # before the next is made
        if missing := layout.keys() - sums.keys():
            raise ValueError(f"{min(missing)} is missing")
        opened.truncate(len(blank) + end)
        opened.seek(0)
        final = header(ordered, describe(sums))
        if len(final) != len(blank):
            raise ValueError("the header has grown")
        write_whole(opened, final)
    return sums


def header(
    layout: Iterable[tuple[str, TensorLayout]], metadata: Mapping[str, str], room: int = 0
) -> bytes:
    """The start of a file: its length and its JSON, a multiple of 8 bytes.

    Args:
        layout: name and layout of each tensor, in the order of their values.
        metadata: texts.
        room: bytes that the JSON is padded to.
    """
    values: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, entry in layout:
        values[name] = {
            "dtype": DTYPES[str(entry.dtype)],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.size],
        }
        offset += entry.size
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(max(-(-len(text) // 8) * 8, room))
    return struct.pack("<Q", len(text)) + text


def checksum_of(
    tensor: "torch.Tensor", pass_on: Callable[[memoryview], object] | None = None
) -> str:
    """CRC-32 of a tensor's dtype, shape and values, in eight hexadecimal digits.

    Args:
        tensor: on any device.
        pass_on: is given the values, block by block.
    """
    whole = tensor.detach().cpu().contiguous()
    total = zlib.crc32(f"{whole.dtype} {list(whole.shape)}".encode())
    # Not by numpy(): a tensor that has lent its memory to it cannot be freed by FSDP any more.
    size = whole.numel() * whole.element_size()
    content = memoryview((ctypes.c_char * size).from_address(whole.data_ptr())).cast("B")
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK]
        total = zlib.crc32(block, total)
        if pass_on:
            pass_on(block)
    return f"{total:08x}"


def write_whole(file: Any, content: bytes | memoryview) -> None:
    """Write all of it to an unbuffered file, which may take less at a time."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]
