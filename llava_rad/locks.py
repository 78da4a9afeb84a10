"""Locks of the operating system: one run owns an output, and its lock dies with it.

A lock is a byte of a file that belongs to a process until it ends, however it ends, so whoever
comes after a killed run is never refused. All processes of one run share the file: each holds the
byte of its own number, and a new run needs all of them free.

Across hosts a lock holds where the file system carries locks (NFS 4, Lustre with ``flock``, GPFS,
CephFS). Where it does not, each host sees its own runs alone; then a lock that a run on another
host left behind is told as a warning, since whether that run lives cannot be known.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError

_LOG = logging.getLogger(__name__)

_FIRST = 1 << 30  # far behind what the file says: on Windows locked bytes cannot be read
_PLACES = 1 << 20
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[tuple[str, int]] = set()


class FileLock:
    """A lock that this process holds between :meth:`acquire` and :meth:`release`.

    It is held by the process alone, not by those it forks. Nothing else in this process may open
    the file meanwhile: closing it would release the lock.

    Args:
        file: made if absent, and removed by the last holder.
        what: is locked, in messages.
        place: number of this process in its run; 0 keeps all other runs out.
    """

    def __init__(self, file: str | Path, what: str = "run", place: int = 0) -> None:
        self.file = Path(os.path.realpath(file))
        self.what = what
        self.place = place
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DataError: another run holds it (kind ``in_use``; the message names process and host),
                or the file cannot be made (kind ``not_writable``).
        """
        if (str(self.file), self.place) in _held:
            raise self._in_use({"process": os.getpid(), "host": socket.gethostname()})
        while True:
            try:
                handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise DataError(
                    f"nothing can be written here ({error.strerror or error})",
                    where=self.file.parent,
                    remedy="Correct the rights, or choose another folder",
                    kind="not_writable",
                ) from error
            try:
                taken = self._take(handle)
            except OSError as error:
                os.close(handle)
                raise DataError(
                    f"the lock cannot be taken ({error.strerror or error})",
                    where=self.file,
                    remedy="Choose a folder on another disk",
                    kind="not_writable",
                ) from error
            if not taken:
                about = _read(handle)
                os.close(handle)
                raise self._in_use(about)
            if self._is_current(handle):
                break
            os.close(handle)  # the holder before removed it between our two steps
        self._handle = handle
        _held.add((str(self.file), self.place))
        if self.place == 0:
            self._sign(handle)

    def wait(self, told: Any = None, *, every: float = 0.5) -> None:
        """Take the lock as soon as it is free.

        Args:
            told: called once, with the message, if there is something to wait for.
            every: seconds between two tries.
        """
        while True:
            try:
                return self.acquire()
            except DataError as error:
                if error.kind != "in_use":
                    raise
                if told is not None:
                    told(str(error.what))
                told = None
                time.sleep(every)

    def is_current(self) -> bool:
        """Whether the file that is locked still lies in its place."""
        return self._handle is not None and self._is_current(self._handle)

    def release(self) -> None:
        """Give the lock back; harmless where it is not held."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        _held.discard((str(self.file), self.place))
        with contextlib.suppress(OSError):
            if self.place == 0:
                os.ftruncate(handle, 0)
            _unlock(handle, _FIRST + self.place, 1)
            if _lock(handle, _FIRST, _PLACES) and self._is_current(handle):
                self.file.unlink()
        with contextlib.suppress(OSError):
            os.close(handle)

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, handle: int) -> bool:
        try:
            if not _lock(handle, _FIRST + self.place, 1):
                return False
            if self.place == 0:  # what a run before left running counts too
                if not _lock(handle, _FIRST + 1, _PLACES - 1):
                    return False
                _unlock(handle, _FIRST + 1, _PLACES - 1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.warning(
                "%s: this file system has no locks (%s): a second %s that writes here would not "
                "be noticed",
                self.file.parent,
                error.strerror,
                self.what,
            )
        return True

    def _sign(self, handle: int) -> None:
        before = _read(handle)
        if before and before.get("host") != socket.gethostname():
            _LOG.warning(
                "%s: a %s on %s (process %s) has not said that it ended; make sure that it has, "
                "since not every file system shows locks of other hosts",
                self.file.parent,
                self.what,
                before.get("host"),
                before.get("process"),
            )
        about = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps(about).encode())

    def _is_current(self, handle: int) -> bool:
        try:
            own, there = os.fstat(handle), self.file.stat()
        except OSError:
            return False
        return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)

    def _in_use(self, about: dict[str, Any]) -> DataError:
        since = f", since {about['since']}" if "since" in about else ""
        holder = f"process {about.get('process', '?')} on {about.get('host', '?')}{since}"
        return DataError(
            f"another {self.what} writes here ({holder})",
            where=self.file.parent,
            remedy="Wait for it or stop it, or choose another output",
            kind="in_use",
        )


class FolderLock(FileLock):
    """The lock of an output folder, ``FOLDER/.lock``.

    Args:
        folder: made if absent.
        what: writes there, in messages.
        place: number of this process in its run.
    """

    def __init__(self, folder: str | Path, what: str = "run", place: int = 0) -> None:
        super().__init__(Path(folder) / ".lock", what, place)

    def acquire(self) -> None:
        """Make the folder and take its lock; errors are those of :meth:`FileLock.acquire`."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the folder cannot be made ({error.strerror or error})",
                where=self.file.parent,
                remedy="Correct the rights, or choose another folder",
                kind="not_writable",
            ) from error
        super().acquire()


@contextlib.contextmanager
def locked(file: str | Path, what: str = "run") -> Iterator[FileLock]:
    """Hold the lock of one output file: ``.NAME.lock`` beside it.

    Raises:
        DataError: as :meth:`FileLock.acquire`.
    """
    file = Path(os.path.realpath(file))
    lock = FileLock(file.with_name(f".{file.name}.lock"), what)
    with lock:
        yield lock


def _read(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 4096) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, first: int, count: int) -> bool:
        os.lseek(handle, first, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, count)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def _unlock(handle: int, first: int, count: int) -> None:
        os.lseek(handle, first, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, count)

else:
    import fcntl

    # Locks of a process, not of an open file: those that data loaders inherit by a fork would
    # outlive a killed run.
    def _lock(handle: int, first: int, count: int) -> bool:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _unlock(handle: int, first: int, count: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN, count, first)
