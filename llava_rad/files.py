"""One way to write: complete or not there at all, with the user's own rights, damage visible.

What is written goes to a temporary name beside its place, is flushed to the disk and renamed; the
folder is flushed too. Rights are those that the umask gives, whatever the writing library does,
or those of the file that is replaced. Temporary names say which process writes them, so that
:func:`clear_leftovers` can take away what a killed one left.

Tensors carry a checksum of each tensor in their file's header, indexes one of their content.
Checksums are CRC-32: they tell damage, not forgery, and cost a fraction of a second a gigabyte.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rad.errors import DataError, ImageError, WeightsError
from llava_rad.names import escape_name, unescape_name
from llava_rad.safetensors_writer import TensorLayout, checksum_of, write_safetensors

if TYPE_CHECKING:
    import torch

CHECKSUMS = "checksums"
_PARTIAL = re.compile(r"\..*\.(?P<host>[\w-]+)-(?P<pid>\d+)-[0-9a-f]{8}\.partial", re.DOTALL)
_writing: set[Path] = set()


# Writing


@contextlib.contextmanager
def write_atomically(file: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes ``file`` when the block ends well.

    A symbolic link is followed; a device or pipe is written to as it is.

    Args:
        file: its folder is there.

    Raises:
        OSError: as the block and the file system raise it; ``file`` is then as it was.
    """
    file = Path(os.path.realpath(file))
    if file.exists() and not file.is_file():
        yield file
        return
    temporary = _temporary(file)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    # Made here, since only the system knows the umask; libraries may replace it with their own.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    rights = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    if file.exists():
        rights = file.stat().st_mode & 0o777
    _writing.add(temporary)
    try:
        yield temporary
        temporary.chmod(rights)
        flush(temporary)
        temporary.replace(file)
        flush(file.parent)
    finally:
        _writing.discard(temporary)
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder_atomically(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes ``folder`` when the block ends well.

    A folder of that name is replaced. All files get the rights that the umask gives.

    Raises:
        OSError: as the block and the file system raise it; ``folder`` is then as it was.
    """
    folder = Path(os.path.realpath(folder))
    temporary, old = _temporary(folder), _temporary(folder)
    temporary.mkdir()
    rights = temporary.stat().st_mode & 0o777
    _writing.update((temporary, old))
    try:
        yield temporary
        give_rights(temporary.rglob("*"), rights)
        for path in (*temporary.rglob("*"), temporary):
            flush(path)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        flush(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)
            _writing.discard(path)


def give_rights(paths: Iterable[Path], rights: int) -> None:
    """Give files and folders of our own the same rights: safetensors makes its files 0600.

    Args:
        paths: links are left as they are.
        rights: of folders; files lack the right to be run.
    """
    for path in paths:
        if not path.is_symlink():
            path.chmod(rights if path.is_dir() else rights & 0o666)


def write_bytes(file: str | Path, content: bytes) -> None:
    """Write a file as :func:`write_atomically` does."""
    with write_atomically(file) as temporary:
        temporary.write_bytes(content)


def write_text(file: str | Path, text: str) -> None:
    """Write UTF-8 text as :func:`write_atomically` does; line ends stay as they are."""
    write_bytes(file, text.encode("utf-8"))


def write_json(file: str | Path, value: Any) -> None:
    """Write a value as JSON, as :func:`write_atomically` does."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_sealed(file: str | Path, value: Any) -> None:
    """Write a value as JSON with a checksum, for :func:`read_sealed`."""
    content = json.dumps(value, ensure_ascii=False)
    seal = checksum(content.encode("utf-8", "surrogatepass"))
    text = f'{{"checksum": "{seal}",\n"content": {content}}}\n'
    write_bytes(file, text.encode("utf-8", "surrogatepass"))


def read_sealed(file: str | Path) -> Any:
    """Read what :func:`write_sealed` wrote.

    Raises:
        DataError: it is damaged or something else (kind ``damaged_file``).
        OSError: it cannot be read at all.
    """
    content = Path(file).read_bytes()
    head, separator, rest = content.partition(b',\n"content": ')
    body = rest.removesuffix(b"}\n")
    if not separator or head != f'{{"checksum": "{checksum(body)}"'.encode() or body == rest:
        raise DataError("the file is damaged", where=file, kind="damaged_file")
    return json.loads(body.decode("utf-8", "surrogatepass"))


def flush(path: Path) -> None:
    """Have the system write a file or folder to the disk before anything depends on it."""
    if path.is_dir() and sys.platform == "win32":
        return  # folders have no handle to flush there
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Leftovers


def _writer() -> str:
    """The host and, in containers, which of its lists of processes ours is in."""
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"
    try:
        space = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        space = "0"
    return f"{host}-{space}"


def _temporary(path: Path) -> Path:
    name = path.name.encode("utf-8", "surrogateescape")[:100].decode("utf-8", "ignore")
    return path.with_name(f".{name}.{_writer()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def process_is_alive(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    if sys.platform == "win32":
        import psutil  # os.kill would end the process there

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def clear_leftovers(folder: Path) -> list[str]:
    """Remove what processes of this machine that are gone were writing in a folder.

    What other machines write stays: whether they live cannot be told from here.

    Returns:
        The names of what was removed.
    """
    cleared = []
    for path in folder.glob(".*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match is None or match["host"] != _writer():
            continue
        pid = int(match["pid"])
        if path in _writing or (pid != os.getpid() and process_is_alive(pid)):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            cleared.append(path.name)
    return cleared


# The user's cache


def user_cache() -> Path:
    """The user's cache folder: ``$LLAVA_RAD_CACHE``, or ``llava-rad`` in the system's place.

    It may hold texts of reports, so where nobody has placed it by hand it is the user's alone.

    Raises:
        DataError: it cannot be made.
    """
    placed = os.environ.get("LLAVA_RAD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(placed or Path(base) / "llava-rad").expanduser()
    try:
        return make_folder(folder, private=not placed)
    except OSError as error:
        raise DataError(
            f"the cache folder cannot be made ({error.strerror or error})",
            where=folder,
            remedy="Set LLAVA_RAD_CACHE to a folder that may be written to",
            kind="no_cache",
        ) from error


def make_folder(folder: Path, *, private: bool) -> Path:
    """Make a folder and those above it; a private one is for the user alone (0700).

    Raises:
        OSError: it cannot be made.
    """
    if not private:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid == os.geteuid() and status.st_mode & 0o077:
        folder.chmod(0o700)  # made by a version that did not care
    return folder


# How caches know a file again


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
                known = self._known[place] = (stamp, sha256(place))
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
        with contextlib.suppress(OSError):  # another user's folder: only a short cut is lost
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(self._memory, content)
            self._learnt = False

    def _remembered(self) -> dict[str, tuple[list[int], str]]:
        if self._memory is None:
            return {}
        try:
            known = read_sealed(self._memory)
            return {
                unescape_name(path): ([int(size), int(time)], str(digest))
                for path, ((size, time), digest) in known.items()
            }
        except (OSError, DataError, ValueError, TypeError, AttributeError):
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


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Tensors


def checksum(content: bytes | memoryview, start: int = 0) -> str:
    """CRC-32 of bytes, in eight hexadecimal digits."""
    return f"{zlib.crc32(content, start):08x}"


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


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count nothing."""
    total = 0
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with contextlib.suppress(OSError):
            total += each.lstat().st_size if each.is_file() and not each.is_symlink() else 0
    return total


def size_text(size: float) -> str:
    """A number of bytes for people: ``340 kB``, ``1.2 GB``."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    unit = units[0]
    return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
