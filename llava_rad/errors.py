"""Errors that a user can act on.

Every message says what happened, where, and what to do about it. Programs catch
:class:`LlavaRadError`, print it in one line and exit with a non-zero code; anything else that
escapes is a defect of this project.
"""

import functools
from typing import Any

from llava_rad.names import one_line


class LlavaRadError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what went wrong, in one sentence without a final full stop.
        where: the file, key, id or option it went wrong at, if there is one.
        remedy: what the user can do, in one sentence without a final full stop.
        kind: a short machine-readable name of the failure, such as ``"truncated_image"``.
    """

    def __init__(
        self, what: str, *, where: object = None, remedy: str = "", kind: str = ""
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        self.kind = kind
        super().__init__(what, where, remedy, kind)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders: data loaders raise them in their workers.
        rebuild = functools.partial(
            type(self), self.what, where=self.where, remedy=self.remedy, kind=self.kind
        )
        return rebuild, ()

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return one_line(f"{head}. {self.remedy}." if self.remedy else f"{head}.")


class ImageError(LlavaRadError):
    """A file cannot be read as a radiograph; ``kind`` says why."""


class WeightsError(LlavaRadError):
    """Weights are absent, incomplete, or do not fit the architecture they are loaded into."""


class ModelError(LlavaRadError):
    """A report model is put together or called in a way that cannot work."""


class ConfigError(LlavaRadError):
    """A configuration file or override is wrong."""


class DataError(LlavaRadError):
    """A data set, manifest or one of its rows is wrong."""


class MetricError(LlavaRadError, ValueError):
    """A metric cannot be computed from what it was given; a ValueError, as libraries expect."""


class TrainingError(LlavaRadError):
    """A training run cannot start or go on."""
