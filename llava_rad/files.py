"""Safetensors files that are complete or not there at all."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from llava_rad.errors import WeightsError


def write_tensors(
    tensors: dict[str, torch.Tensor], file: Path, *, metadata: dict[str, str] | None = None
) -> None:
    """Write to a temporary name, read the header back, then rename.

    Args:
        tensors: by name.
        file: to write; one that is there is replaced.
        metadata: texts kept in the file's header.

    Raises:
        WeightsError: a tensor has no elements (as sharded training saves when it does not
            gather), or the file read back differs in names or shapes.
    """
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise WeightsError(
                f"tensor '{name}' has shape {list(tensor.shape)}: it was not gathered",
                where=file,
                remedy="Gather the parameters before saving (Accelerate: get_state_dict)",
                kind="empty_tensor",
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            metadata={"format": "pt", **(metadata or {})},
        )
        with safe_open(temporary, framework="pt") as written:
            found = {k: written.get_slice(k).get_shape() for k in written.keys()}  # noqa: SIM118
        if found != {k: list(v.shape) for k, v in tensors.items()}:
            raise WeightsError("the file read back differs from what was saved", where=file)
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot write ({error})", where=file, remedy="Check the disk's free space and rights"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    if not file.is_file():
        raise WeightsError(
            "the weights file is missing",
            where=file,
            remedy="Copy the whole model folder again",
            kind="missing_file",
        )
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"the weights file is damaged ({error})",
            where=file,
            remedy="Copy the whole model folder again",
            kind="damaged_file",
        ) from error


def cast(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors in another number format; unchanged for None."""
    return tensors if dtype is None else {name: t.to(dtype) for name, t in tensors.items()}
