"""One way to write: complete or not there at all, with the user's own rights, damage visible.

What is written goes to a temporary name beside its place, is flushed to the disk and renamed; the
folder is flushed too. Rights are those that the umask gives, whatever the writing library does,
or those of the file that is replaced. Temporary names say which process writes them, so that
:func:`clear_leftovers` can take away what a killed one left.

Indexes carry a checksum of their content, tensors one each (:mod:`llava_rad.tensor_files`): CRC-32,
which tells damage, not forgery, and costs a fraction of a second a gigabyte.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError

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


# Contents and sizes


def checksum(content: bytes | memoryview, start: int = 0) -> str:
    """CRC-32 of bytes, in eight hexadecimal digits."""
    return f"{zlib.crc32(content, start):08x}"


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
