"""What networks said of texts, on disk, by a hash of network and text."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rad.caches import open_private_database
from llava_rad.errors import MetricError


class TextStore:
    """A file of what was said of texts, open in a ``with`` block.

    It repeats the reports' words, so the file is for the user alone wherever it lies.

    Args:
        path: an SQLite file, made if absent.
        key: of a text: a hash of it and of all that decides what is said.
    """

    def __init__(self, path: Path, key: Callable[[str], str]) -> None:
        self.path, self.key = path, key

    def __enter__(self) -> "TextStore":
        try:
            self.connection = open_private_database(self.path)
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS annotations (key TEXT PRIMARY KEY, value TEXT)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.connection.close()
        if isinstance(error, sqlite3.Error):  # damaged further on, or a full disk
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> MetricError:
        return MetricError(
            f"the cache of what networks said cannot be used: {error}",
            where=self.path,
            remedy="Remove the file, or choose another cache folder",
            kind="cache",
        )

    def read(self, texts: Sequence[str]) -> dict[str, Any]:
        """What is known of the texts."""
        found = {}
        for text in texts:
            row = self.connection.execute(
                "SELECT value FROM annotations WHERE key = ?", (self.key(text),)
            ).fetchone()
            if row:
                found[text] = json.loads(row[0])
        return found

    def holds(self, text: str) -> bool:
        """Whether something is known of a text."""
        found = self.connection.execute(
            "SELECT 1 FROM annotations WHERE key = ?", (self.key(text),)
        ).fetchone()
        return found is not None

    def write(self, said: Mapping[str, Any]) -> None:
        """Keep what was said of texts."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR REPLACE INTO annotations VALUES (?, ?)",
                [(self.key(text), json.dumps(value)) for text, value in said.items()],
            )
