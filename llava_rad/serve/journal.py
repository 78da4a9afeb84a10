"""What was reported, kept across restarts: a file of JSON lines, each flushed to the disk.

A line tells that a report begins (``writes``, the names of its documents), that it is done, or that
a document was sent. What was begun and not done is reported again under the same names. A line
that was cut off counts as not written. Studies have the names that
:mod:`llava_rad.data.identifiers` makes; files are named relative to the watched folder.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError
from llava_rad.outputs import cannot_write
from llava_rad.serve.arrivals import Stamp


class Journal:
    """The journal of one folder; only one process at a time may hold it.

    Args:
        path: made with the first line.

    Raises:
        DataError: it is something else, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, dict[str, list[int]]] = {}
        self._counts: dict[str, int] = {}
        self._names: set[str] = set()
        self._unsent: dict[str, None] = {}
        self._read()

    def is_done(self, study: str, files: Mapping[str, Stamp]) -> bool:
        """Whether a study was reported, or failed, with just these files."""
        return self._done.get(study) == _plain(files)

    def count(self, study: str) -> int:
        """How many reports of a study were written."""
        return self._counts.get(study, 0)

    def knows(self, document: str) -> bool:
        """Whether a document of this name was begun."""
        return document in self._names

    @property
    def unsent(self) -> list[str]:
        """Documents that are still to be sent, oldest first."""
        return list(self._unsent)

    def begin(self, study: str, documents: Iterable[str]) -> None:
        """Tell which documents are going to be written. Raises DataError."""
        self._append({"study": study, "writes": list(documents)})

    def finish(
        self,
        study: str,
        files: Mapping[str, Stamp],
        *,
        run: str,
        error: str | None = None,
        send: Iterable[str] = (),
    ) -> None:
        """Tell that a study needs no more work until its files change. Raises DataError."""
        line: dict[str, Any] = {"study": study, "files": _plain(files), "run": run}
        if error is not None:
            line["error"] = error
        if to_send := list(send):
            line["send"] = to_send
        self._append(line)

    def sent(self, document: str) -> None:
        """Tell that a document has arrived elsewhere. Raises DataError."""
        self._append({"sent": document})

    def _append(self, line: dict[str, Any]) -> None:
        content = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._take(line)

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=self.path) from error
        whole = content[: content.rfind(b"\n") + 1]
        for number, text in enumerate(whole.splitlines(), 1):
            try:
                self._take(json.loads(text))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(
                    "not a journal of reported studies",
                    where=f"{self.path}:{number}",
                    remedy="Move it away; studies that are there are then reported again",
                    kind="bad_journal",
                ) from error
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def _take(self, line: Mapping[str, Any]) -> None:
        if "sent" in line:
            self._unsent.pop(line["sent"], None)
        elif "writes" in line:
            self._names.update(line["writes"])
        else:
            self._done[line["study"]] = dict(line["files"])
            if "error" not in line:
                self._counts[line["study"]] = self.count(line["study"]) + 1
            self._unsent.update(dict.fromkeys(line.get("send", ())))


def _plain(files: Mapping[str, Stamp]) -> dict[str, list[int]]:
    """As JSON gives it back."""
    return {name: list(stamp) for name, stamp in sorted(files.items())}
