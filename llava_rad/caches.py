"""What lies in the user's cache folder: listed, cleared, and kept within a limit.

Everything there can be made again. ``LLAVA_RAD_CACHE_LIMIT`` (such as ``20GB``) bounds the whole:
whenever something is added, what was used least recently makes room.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from llava_rad.errors import ConfigError
from llava_rad.files import clear_leftovers, size_of, user_cache

#: What is kept, as patterns of places in the cache folder, and what each holds. Nothing else there
#: is listed or removed.
KINDS = {
    "llm/*": "a base LLM, converted from its GGUF file",
    "models/*": "a metric's model, unpacked from its archive",
    "judges.sqlite": "answers of judges: they hold the words of reports",
    "radgraph.sqlite": "RadGraph annotations: they hold the words of reports",
}
LIMIT = "LLAVA_RAD_CACHE_LIMIT"

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# Something that is being used was marked when it was opened; it stays for a while after.
_IN_USE_SECONDS = 3600


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache.

    Attributes:
        name: its place in the cache folder, as ``clear`` takes it.
        path: where it is.
        holds: what it is.
        size: in bytes.
        used: when it was last used, in seconds since 1970.
    """

    name: str
    path: Path
    holds: str
    size: int
    used: float


def list_entries(folder: Path | None = None) -> list[CacheEntry]:
    """What the cache holds, the largest first.

    Args:
        folder: of the cache; the user's by default.
    """
    folder = folder or user_cache()
    found = []
    for pattern, holds in KINDS.items():
        for path in folder.glob(pattern):
            if path.name.startswith("."):
                continue
            with contextlib.suppress(OSError):  # removed by another meanwhile
                size = size_of(path) + sum(size_of(side) for side in _sides(path))
                used = path.stat().st_mtime
                name = path.relative_to(folder).as_posix()
                found.append(CacheEntry(name, path, holds, size, used))
    return sorted(found, key=lambda entry: (-entry.size, entry.name))


def clear_entries(names: list[str] | None, folder: Path | None = None) -> int:
    """Remove things from the cache.

    Args:
        names: of entries; None removes all of them, and what killed runs left.
        folder: of the cache; the user's by default.

    Returns:
        Bytes that were freed.

    Raises:
        ConfigError: there is none of that name, or it cannot be removed.
    """
    folder = folder or user_cache()
    entries = {entry.name: entry for entry in list_entries(folder)}
    for name in names or ():
        if name not in entries:
            raise ConfigError(
                "the cache holds nothing of this name",
                where=name,
                remedy=f"It holds {', '.join(entries) or 'nothing'}",
                kind="unknown_entry",
            )
    chosen = [entries[name] for name in entries if names is None or name in names]
    for entry in chosen:
        _remove(entry)
    if names is None:
        for place in (folder, *(folder / pattern.split("/")[0] for pattern in KINDS)):
            if place.is_dir():
                clear_leftovers(place)
    return sum(entry.size for entry in chosen)


def mark_used(path: Path) -> None:
    """Note that something in the cache is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def cache_limit() -> int | None:
    """The bytes that ``LLAVA_RAD_CACHE_LIMIT`` allows; None where it is not set.

    Raises:
        ConfigError: it is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{text!r} is no size", where=LIMIT, remedy="Write for example 20GB")
    return int(float(match[1]) * unit)


def keep_within_limit(added: Path, folder: Path | None = None) -> list[str]:
    """Remove what was used least recently until the cache is within its limit.

    Args:
        added: just now; it stays, as does all that was used within the last hour.
        folder: of the cache; the user's by default.

    Returns:
        Names of what was removed.

    Raises:
        ConfigError: the limit is no size.
    """
    limit = cache_limit()
    if limit is None:
        return []
    entries = list_entries(folder)
    total = sum(entry.size for entry in entries)
    removed = []
    for entry in sorted(entries, key=lambda entry: entry.used):
        if total <= limit:
            break
        if entry.path == added or time.time() - entry.used < _IN_USE_SECONDS:
            continue
        with contextlib.suppress(ConfigError):
            _remove(entry)
            total -= entry.size
            removed.append(entry.name)
    return removed


def open_private_database(path: Path) -> sqlite3.Connection:
    """Open an SQLite file that the user alone may read, made if absent.

    Raises:
        OSError: it cannot be made, or is another user's.
        sqlite3.Error: it is no such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Before SQLite would make it with everybody's rights; its journals take those of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return sqlite3.connect(path, timeout=60)


def _sides(path: Path) -> list[Path]:
    """The journals beside an SQLite file."""
    return [path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm")]


def _remove(entry: CacheEntry) -> None:
    try:
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            for path in (entry.path, *_sides(entry.path)):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"it cannot be removed ({error.strerror or error})",
            where=entry.path,
            remedy="Check its rights",
        ) from error
