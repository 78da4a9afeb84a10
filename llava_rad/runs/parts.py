"""The part of each tensor that a process writes, and reading tensors back however they were split.

Files are laid out as torch.distributed.checkpoint's ``HuggingFaceStorageWriter`` does it with
``save_distributed``: a safetensors file a process, whose header says where in the whole each part
begins, so that ``HuggingFaceStorageReader`` reads them too. They are written and read by this
module, one tensor at a time: that writer holds a process's whole file in memory once more, and that
reader wants everything at once, which DeepSpeed's split tensors are not.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from llava_rad.safetensors_writer import TensorLayout, torch_dtype
from llava_rad.tensor_files import write_each_tensor

_OFFSETS = "DCP_SHARDING_INFO"


@dataclass(frozen=True)
class Gathered:
    """A tensor that is whole in no process until all of them gather it.

    Attributes:
        shape: of the whole.
        dtype: of its values.
        gather: the whole tensor; every process has to call it, in the same order.
    """

    shape: Sequence[int]
    dtype: torch.dtype
    gather: Callable[[], Tensor]


class Part(NamedTuple):
    """What a process holds of a tensor, and whether it writes it.

    Attributes:
        layout: dtype, and shape of the part.
        offsets: where in the whole it begins.
        value: the part; where it has to be gathered, every process has to call it.
        own: this process writes it.
    """

    layout: TensorLayout
    offsets: tuple[int, ...]
    value: Callable[[], Tensor]
    own: bool


def part_of(tensor: Tensor | Gathered, is_main: bool) -> Part:
    """The part of a tensor that this process holds.

    Args:
        tensor: the same in every process, or split (DTensor), or gathered when it is asked for.
        is_main: whether this process writes what all have.
    """
    if isinstance(tensor, Gathered):
        layout = TensorLayout(tensor.dtype, list(tensor.shape))
        return Part(layout, (0,) * len(tensor.shape), tensor.gather, is_main)
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        layout = TensorLayout(tensor.dtype, list(tensor.shape))
        return Part(layout, (0,) * tensor.ndim, lambda: tensor, is_main)
    local, offsets = tensor.to_local(), _offsets(tensor)
    place: Sequence[int] = tensor.device_mesh.get_coordinate() or []
    first = all(
        place[axis] == 0 for axis, kind in enumerate(tensor.placements) if kind == Replicate()
    )
    layout = TensorLayout(local.dtype, list(local.shape))
    return Part(layout, offsets, lambda: local, first and local.numel() > 0)


def _offsets(tensor: DTensor) -> tuple[int, ...]:
    return compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )[1]


def write_parts(parts: Mapping[str, Part], file: Path) -> str:
    """Write this process's own parts into a file, one tensor in memory at a time.

    Every process has to call this. What has to be gathered is gathered to the end even where this
    process's disk refuses: the others wait for it.

    Args:
        parts: by name, in the same order in every process.
        file: to write.

    Returns:
        The file's seal, for :func:`llava_rad.tensor_files.check_tensors`; empty where this process
        writes nothing, and no file is made.

    Raises:
        ValueError: a number is not finite.
        WeightsError: the disk refuses.
    """
    remaining = iter(parts.items())

    def values() -> Iterator[tuple[str, Tensor]]:
        for name, part in remaining:
            value = part.value()
            if part.own:
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise ValueError(f"{name} is not finite")
                yield name, value
            del value  # before the next is gathered

    own = {name: part for name, part in parts.items() if part.own}
    offsets = {name: {"saved_offsets": list(part.offsets)} for name, part in own.items()}
    try:
        if not own:
            return ""
        return write_each_tensor(
            {name: part.layout for name, part in own.items()},
            values(),
            file,
            metadata={_OFFSETS: json.dumps(offsets), "DCP_VERSION": "1.0"},
        )
    finally:
        for _, part in remaining:
            part.value()


class SavedTensors(Mapping[str, Tensor]):
    """Tensors in files of parts: each is read when it is asked for, and nothing is kept.

    Args:
        files: of all processes that wrote.
        prefix: of the names that are meant; it is left out here.

    Raises:
        OSError, ValueError, SafetensorError: a file is missing or damaged.
    """

    def __init__(self, files: Sequence[Path], prefix: str = "") -> None:
        self._opened: list[Any] = []
        self._parts: dict[str, list[tuple[Any, list[int], list[int]]]] = {}
        for file in files:
            opened = safe_open(file, framework="pt").__enter__()
            self._opened.append(opened)
            offsets = json.loads((opened.metadata() or {})[_OFFSETS])
            for name in opened.keys():  # noqa: SIM118
                if name.startswith(prefix):
                    part = opened.get_slice(name)
                    where = (part, offsets[name]["saved_offsets"], part.get_shape())
                    self._parts.setdefault(name.removeprefix(prefix), []).append(where)

    def shape(self, name: str) -> torch.Size:
        """The shape of the whole tensor."""
        parts = self._parts[name]
        ends = [[o + s for o, s in zip(at, sizes, strict=True)] for _, at, sizes in parts]
        return torch.Size(max(along) for along in zip(*ends, strict=True))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype it was saved in."""
        return torch_dtype(self._parts[name][0][0].get_dtype())

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Copy the values of a tensor of the same shape, split or not, into it.

        Raises:
            ValueError: no file holds a part of it.
        """
        target = tensor.detach()
        begin: tuple[int, ...] = (0,) * tensor.ndim
        if isinstance(target, DTensor):
            begin, target = _offsets(target), target.to_local()
        wanted = target.numel()
        for part, offsets, sizes in self._parts[name]:
            # Where this part and what is wanted overlap, in the coordinates of either.
            edges = [
                (max(b, o), min(b + t, o + s))
                for b, t, o, s in zip(begin, target.shape, offsets, sizes, strict=True)
            ]
            if any(low >= high for low, high in edges):
                continue
            there = tuple(slice(a - o, b - o) for (a, b), o in zip(edges, offsets, strict=True))
            here = tuple(slice(a - o, b - o) for (a, b), o in zip(edges, begin, strict=True))
            values = part[there] if there else part[...]
            target[here].copy_(values)
            wanted -= values.numel()
        if wanted:
            raise ValueError(f"a part of {name} is in no file")

    def __getitem__(self, name: str) -> Tensor:
        whole = torch.empty(self.shape(name), dtype=self.dtype(name))
        self.read_into(name, whole)
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    def __len__(self) -> int:
        return len(self._parts)
