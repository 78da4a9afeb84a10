"""Errors that a user can act on.

Every message says what happened, where, and what to do about it. Programs catch
:class:`LlavaRadError`, print it in one line and exit with a non-zero code; anything else that
escapes is a defect of this project.
"""

import functools
import reprlib
from typing import Any

from llava_rad.names import one_line


def shown(value: object) -> str:
    """A value as an error message shows it: one short line, whatever it is."""
    writer = reprlib.Repr()
    writer.maxlevel = 3
    writer.maxstring = writer.maxother = writer.maxlong = 80
    try:
        return cut(writer.repr(value), 100)
    except Exception:  # a number of more digits than Python writes, or a broken __repr__
        return f"a {type(value).__name__} that cannot be shown"


def described(value: object) -> str:
    """What a value of a file is: its kind where it is no text or number, else itself."""
    kinds = {list: "a list", dict: "an object", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value)) or shown(value)


def cut(text: str, length: int) -> str:
    """A text as one line of at most ``length`` characters that any file can hold."""
    line = " ".join(text[: 4 * length].encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


# The most characters of a message's parts: what, where, remedy. Together they stay one readable
# line, whatever a file or a library put into them.
_WHAT, _WHERE, _REMEDY = 1200, 300, 450


class LlavaRadError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what went wrong, in one sentence without a final full stop.
        where: the file, key, id or option it went wrong at, if there is one.
        remedy: what the user can do, in one sentence without a final full stop.
        kind: a short machine-readable name of the failure, such as ``"truncated_image"``.

    Attributes:
        exit_code: what a program ends with: 2 for wrong usage and wrong settings, else 1.
        told: another process of the same run prints the message.
    """

    exit_code = 1
    told = False

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
        what = _shortened(one_line(self.what), _WHAT)
        head = f"{_without_middle(one_line(self.where), _WHERE)}: {what}" if self.where else what
        remedy = _shortened(one_line(self.remedy), _REMEDY)
        return f"{head}. {remedy}." if remedy else f"{head}."


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _without_middle(text: str, length: int) -> str:
    """A path keeps its beginning and, with the file's name, its end."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"


class ImageError(LlavaRadError):
    """A file cannot be read as a radiograph; ``kind`` says why."""


class WeightsError(LlavaRadError):
    """Weights are absent, incomplete, or do not fit the architecture they are loaded into."""


class ModelError(LlavaRadError):
    """A report model is put together or called in a way that cannot work."""


class ConfigError(LlavaRadError):
    """A configuration file, an override or an option is wrong."""

    exit_code = 2


class DataError(LlavaRadError):
    """A data set, manifest or one of its rows is wrong."""


class MetricError(LlavaRadError, ValueError):
    """A metric cannot be computed from what it was given; a ValueError, as libraries expect."""


class TrainingError(LlavaRadError):
    """A training run cannot start or go on."""
