"""Tensors in safetensors files whose damage is seen: a checksum of each in the file's header."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rad.errors import WeightsError
from llava_rad.files import checksum, write_atomically
from llava_rad.safetensors_writer import TensorLayout, checksum_of, write_safetensors

if TYPE_CHECKING:
    import torch

CHECKSUMS = "checksums"


def write_tensors(
    tensors: Mapping[str, "torch.Tensor"],
    file: Path,
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a safetensors file with checksums in its header; the same content gives the same bytes.

    Args:
        tensors: by name.
        file: to write; one that is there is replaced.
        metadata: texts kept in the file's header.

    Returns:
        A checksum of the whole, for :func:`read_tensors`.

    Raises:
        WeightsError: a tensor has no elements (as sharded training saves when it does not
            gather), the file read back differs in names or shapes, or it cannot be written.
    """
    layout = {name: TensorLayout(t.dtype, t.shape) for name, t in tensors.items()}
    return write_each_tensor(layout, tensors.items(), file, metadata=metadata)


def write_each_tensor(
    layout: Mapping[str, TensorLayout],
    tensors: Iterable[tuple[str, "torch.Tensor"]],
    file: Path,
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """As :func:`write_tensors`, of tensors that are made or gathered one at a time.

    Args:
        layout: of every tensor, by name.
        tensors: names and values; of each only this call holds a copy, until the next.
        file: as there.
        metadata: as there.
    """
    from safetensors import SafetensorError, safe_open

    for name, entry in layout.items():
        if entry.size == 0:
            raise WeightsError(
                f"tensor '{name}' has shape {list(entry.shape)}: it was not gathered",
                where=file,
                remedy="Gather the parameters before saving (Accelerate: get_state_dict)",
                kind="empty_tensor",
            )
    about = {"format": "pt", **(metadata or {})}
    seal = ""

    def describe(sums: Mapping[str, str]) -> dict[str, str]:
        nonlocal seal
        seal = seal_of(sums, about)
        return {
            **about,
            CHECKSUMS: json.dumps({"tensors": dict(sorted(sums.items())), "all": seal}),
        }

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as temporary:
            write_safetensors(temporary, layout, tensors, describe)
            with safe_open(temporary, framework="pt") as written:
                found = {k: written.get_slice(k).get_shape() for k in written.keys()}  # noqa: SIM118
            if found != {name: list(entry.shape) for name, entry in layout.items()}:
                raise WeightsError("the file read back differs from what was saved", where=file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot write ({error})",
            where=file,
            remedy="Check the disk's free space and rights",
            kind="not_written",
        ) from error
    return seal


def read_tensors(file: Path, *, seal: str | None = None) -> dict[str, "torch.Tensor"]:
    """Read a safetensors file; where it has checksums, they are compared.

    Args:
        file: to read.
        seal: what :func:`write_tensors` returned; a file of other content is refused.

    Raises:
        WeightsError: it is missing, cannot be read, is damaged, or holds a number that is not
            finite.
    """
    return read_tensors_and_metadata(file, seal=seal)[0]


def read_tensors_and_metadata(
    file: Path, *, seal: str | None = None
) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """As :func:`read_tensors`, with the texts of the header."""
    about: dict[str, str] = {}
    return dict(read_each_tensor(file, seal=seal, about=about)), about


def check_tensors(file: Path, *, seal: str | None = None) -> None:
    """Read a file as :func:`read_tensors` does, one tensor at a time, and keep nothing."""
    for _ in read_each_tensor(file, seal=seal):
        pass


def read_each_tensor(
    file: Path, *, seal: str | None = None, about: dict[str, str] | None = None
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """As :func:`read_tensors`, one tensor at a time; ``about`` gets the texts of the header.

    That the file is whole is known when the last one has been taken.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise WeightsError(
            "the weights file is missing",
            where=file,
            remedy="Copy the whole model folder again",
            kind="missing_file",
        )
    try:
        with safe_open(file, framework="pt") as opened:
            texts = dict(opened.metadata() or {})
            sealed = CHECKSUMS in texts
            sums = json.loads(texts.pop(CHECKSUMS)) if sealed else {}
            of_tensors, of_all = (dict(sums["tensors"]), sums["all"]) if sealed else ({}, None)
            found: dict[str, str] = {}
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                if sealed:
                    found[name] = checksum_of(tensor)
                    if found[name] != of_tensors.get(name):
                        raise _damaged(file, f"the checksum of '{name}' differs")
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise WeightsError(
                        f"tensor '{name}' holds numbers that are not finite",
                        where=file,
                        remedy="Train again from the last good checkpoint, or copy the file again",
                        kind="not_finite",
                    )
                yield name, tensor
    except PermissionError as error:
        raise WeightsError(
            f"the weights file may not be read ({error.strerror})",
            where=file,
            remedy="Ask its owner for the right to read it",
            kind="no_right",
        ) from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    if sealed and of_all != seal_of(found, texts):
        raise _damaged(file, "the checksum of its header differs")
    if seal is not None and of_all != seal:
        raise _damaged(file, "it is not the file that was written")
    if about is not None:
        about.update(texts)


def seal_of(sums: Mapping[str, str], about: Mapping[str, str]) -> str:
    """Checksum of the tensors' checksums and of the other texts of a file's header."""
    return checksum(json.dumps([sorted(sums.items()), sorted(about.items())]).encode())


def _damaged(file: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"the weights file is damaged ({reason})",
        where=file,
        remedy="Copy the whole model folder again",
        kind="damaged_file",
    )


def fingerprint(tensors: "Mapping[str, torch.Tensor]") -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_fingerprint(
    tensors: "Mapping[str, torch.Tensor]", expected: str | None, *, where: Path
) -> None:
    """Check weights against the fingerprint that was saved with them; None checks nothing.

    Raises:
        WeightsError: they are others.
    """
    if expected is not None and fingerprint(tensors) != expected:
        raise WeightsError(
            "the weights are not those that the model was saved with",
            where=where,
            remedy="Copy the whole model folder again",
            kind="wrong_weights",
        )


def cast(
    tensors: dict[str, "torch.Tensor"], dtype: "torch.dtype | None"
) -> dict[str, "torch.Tensor"]:
    """The tensors in another number format; unchanged for None."""
    return tensors if dtype is None else {name: t.to(dtype) for name, t in tensors.items()}
