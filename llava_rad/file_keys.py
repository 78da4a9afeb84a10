"""How caches know a file again: by what it holds, or by its path, size and time of change."""

import contextlib
import hashlib
import os
from pathlib import Path

from llava_rad.errors import DataError, ImageError
from llava_rad.files import read_sealed, write_sealed
from llava_rad.names import escape_name, unescape_name


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
