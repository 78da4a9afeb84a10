"""Files: how caches know one again, and safetensors that are complete or not there at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rad.errors import DataError, ImageError, WeightsError
from llava_rad.names import escape_name, unescape_name
from llava_rad.readers import read_json

if TYPE_CHECKING:  # only weights need it, and it takes a second to import
    import torch


class ContentKeys:
    """Keys of image files in caches: the SHA-256 of what they hold.

    A file is read once. After that it is known by path, size and time of change (in nanoseconds):
    a renamed or copied file has the same key, a changed one has another.

    Args:
        memory: a JSON file in which the keys outlast the process; None forgets them.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, tuple[list[int], str]] = self._remembered()
        self._learnt = False

    def __call__(self, path: str | Path) -> str:
        """The key of a file.

        Raises:
            ImageError: it cannot be read.
        """
        place = str(Path(path).absolute())
        try:
            stamp = list(_size_and_time(place))
            known = self._known.get(place)
            if known is None or known[0] != stamp:
                known = self._known[place] = (stamp, _sha256(place))
                self._learnt = True
        except (OSError, ValueError) as error:  # ValueError: no name that a system can have
            raise ImageError(
                f"the image cannot be read ({getattr(error, 'strerror', None) or error})",
                where=path,
                remedy="Restore the file, or take its study out of the manifest",
                kind="not_found" if isinstance(error, FileNotFoundError) else "unreadable",
            ) from error
        return known[1]

    def remember(self) -> None:
        """Write the keys, with those that other processes wrote in the meantime."""
        if self._memory is None or not self._learnt:
            return
        self._known = self._remembered() | self._known
        content = {escape_name(path): list(known) for path, known in self._known.items()}
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        partial = self._memory.with_name(f".{self._memory.name}.{os.getpid()}")
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(self._memory)
        self._learnt = False

    def _remembered(self) -> dict[str, tuple[list[int], str]]:
        if self._memory is None:
            return {}
        try:
            known = read_json(self._memory, expect=dict)
            return {
                unescape_name(path): ([int(size), int(time)], str(digest))
                for path, ((size, time), digest) in known.items()
            }
        except (ValueError, TypeError, DataError):
            # Only a short cut: without it the files are read again.
            return {}


def stamp_key(path: str | Path) -> str:
    """Path, size and time of change of a file as one text.

    The key of caches for which reading every file would take too long. A file that is not there
    has a key too.
    """
    place = str(Path(path).absolute())
    try:
        size, time = _size_and_time(place)
    except (OSError, ValueError):
        size, time = -1, -1
    return f"{escape_name(place)}\t{size}\t{time}"


def _size_and_time(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 (a str is what the caller has)
    return status.st_size, status.st_mtime_ns


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_tensors(
    tensors: "dict[str, torch.Tensor]", file: Path, *, metadata: dict[str, str] | None = None
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
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

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


def read_tensors(file: Path) -> "dict[str, torch.Tensor]":
    """Read a safetensors file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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


def cast(
    tensors: "dict[str, torch.Tensor]", dtype: "torch.dtype | None"
) -> "dict[str, torch.Tensor]":
    """The tensors in another number format; unchanged for None."""
    return tensors if dtype is None else {name: t.to(dtype) for name, t in tensors.items()}
