"""JSON and JSON lines."""

import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError, LlavaRadError, described, shown
from llava_rad.names import one_line
from llava_rad.readers.text import decode, read_text, why

#: Numbers that JSON does not have and Python's writers write all the same.
CONSTANTS = ("NaN", "Infinity", "-Infinity")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST_LINE = 64 << 20


def read_json(
    path: str | Path,
    *,
    error: type[LlavaRadError] = DataError,
    expect: type | None = None,
    failure: str = "the file cannot be read",
    remedy: str = "",
    kind: str = "bad_file",
    constants: Collection[str] = (),
    unique_keys: bool = False,
    replace_surrogates: Callable[[], None] | None = None,
) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        error: the class of what is raised.
        expect: ``dict`` or ``list``, if it must be one.
        failure: how the message says that there is no file or that it may not be read.
        remedy: what to do about a file that is absent or wrong.
        kind: of the errors.
        constants: which of :data:`CONSTANTS` are allowed.
        unique_keys: see :func:`parse_json`.
        replace_surrogates: see :func:`parse_json`.

    Raises:
        LlavaRadError: of the class ``error``: see :func:`parse_json`; or the file cannot be read,
            or holds something else than ``expect``.
    """
    text = read_text(path, error=error, failure=failure, remedy=remedy, kind=kind)
    value = parse_json(
        text,
        where=path,
        error=error,
        remedy=remedy,
        kind=kind,
        constants=constants,
        unique_keys=unique_keys,
        replace_surrogates=replace_surrogates,
    )
    if expect is not None and not isinstance(value, expect):
        wanted = "an object" if expect is dict else "a list"
        raise error(
            f"expected {wanted}, got {described(value)}",
            where=one_line(str(path)),
            remedy=remedy,
            kind=kind,
        )
    return value


def read_json_lines(
    path: str | Path,
    *,
    error: type[LlavaRadError] = DataError,
    failure: str = "the file cannot be read",
    remedy: str = "Give one JSON object on each line",
    constants: Collection[str] = (),
    replace_surrogates: Callable[[], None] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line from 1, object) of a file of JSON lines; blank lines are passed over.

    Args:
        path: the file.
        error: the class of what is raised.
        failure: how the message says that there is no file or that it may not be read.
        remedy: what to do about a line that is wrong.
        constants: which of :data:`CONSTANTS` are allowed.
        replace_surrogates: see :func:`parse_json`.

    Raises:
        LlavaRadError: of the class ``error``, with file and line: see :func:`parse_json`; or a
            line is no object, or gives a key twice.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as problem:
        raise error(
            f"{failure} ({why(problem)})",
            where=one_line(str(path)),
            remedy=remedy,
            kind="unreadable",
        ) from problem
    name = one_line(str(path))
    with file:
        line = 0
        while True:
            line += 1
            try:
                content = file.readline(_LONGEST_LINE)
            except OSError as problem:
                raise error(
                    f"{failure} ({why(problem)})", where=name, kind="unreadable"
                ) from problem
            if not content:
                return
            if not content.strip():
                continue
            where = f"{name}:{line}"
            try:
                # A NUL is named by the JSON parser, with its column.
                text = content.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError:
                text = decode(content, path, error, line=line)
            row = parse_json(
                text,
                where=where,
                error=error,
                remedy=remedy,
                kind="not_json",
                constants=constants,
                unique_keys=True,
                replace_surrogates=replace_surrogates,
                line_named=True,
            )
            if not isinstance(row, dict):
                raise error(
                    f"expected an object, got {described(row)}",
                    where=where,
                    remedy=remedy,
                    kind="not_an_object",
                )
            yield line, row


def parse_json(
    text: str | bytes,
    *,
    where: object,
    error: type[LlavaRadError] = DataError,
    remedy: str = "",
    kind: str = "not_json",
    constants: Collection[str] = (),
    unique_keys: bool = False,
    replace_surrogates: Callable[[], None] | None = None,
    line_named: bool = False,
) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        where: the file, for the message; the line is added.
        error: the class of what is raised.
        remedy: what to do.
        kind: of the error.
        constants: which of :data:`CONSTANTS` are allowed.
        unique_keys: refuse an object with a key twice; otherwise the last one counts.
        replace_surrogates: halves of surrogate pairs, which no file can hold, become question
            marks, and this is called once for each text; None refuses them.
        line_named: ``where`` names the line already.

    Raises:
        LlavaRadError: of the class ``error``: the text is not JSON, nested too deep, or holds a
            number without a finite value, or half a surrogate pair.
    """
    if isinstance(text, bytes):
        text = decode(text, where, error)

    def refuse(what: str, place: int | None, problem: BaseException | None = None) -> LlavaRadError:
        line = "" if line_named or place is None else f":{1 + text.count(chr(10), 0, place)}"
        made = error(
            f"not JSON: {what}", where=f"{one_line(str(where))}{line}", remedy=remedy, kind=kind
        )
        made.__cause__ = problem
        return made

    try:
        value = _decoder(frozenset(constants), unique_keys).decode(text)
    except _RefusedError as problem:
        piece = problem.piece
        raise refuse(problem.what, None if piece is None else _place(text, piece)) from None
    except json.JSONDecodeError as problem:
        column = f" (column {problem.colno})" if line_named else ""
        raise refuse(f"{problem.msg}{column}", problem.pos, problem) from problem
    except RecursionError as problem:
        raise refuse("it is nested too deep", None, problem) from None
    except ValueError as problem:  # more digits than Python reads
        digits = re.search(r"\d{4000,}", text)
        raise refuse("a number has too many digits", digits and digits.start(), problem) from None
    match = _SURROGATE.search(text)
    if match is None:  # only an escape brings in half a pair
        return value
    try:
        if replace_surrogates is not None:
            return _without_surrogates(value, replace_surrogates)
        halved = _has_surrogate(value)
    except RecursionError as problem:  # Python's reader goes deeper than its functions
        raise refuse("it is nested too deep", None, problem) from None
    if halved:
        raise refuse("a text holds half a character (a lone surrogate)", match.start())
    return value


class _RefusedError(Exception):
    """Something that JSON has not.

    Args:
        what: it is.
        piece: of the text, by which the place is found; None where that cannot be told.
    """

    def __init__(self, what: str, piece: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.piece = piece


@functools.cache
def _decoder(constants: frozenset[str], unique_keys: bool) -> json.JSONDecoder:
    """A decoder for all texts of one kind: to make one takes as long as to read a short line."""

    def constant(word: str) -> float:
        if word not in constants:
            raise _RefusedError(f"{word} is no number", word)
        return float(word.replace("Infinity", "inf"))

    return json.JSONDecoder(
        parse_constant=constant,
        parse_float=_real,
        object_pairs_hook=_unique if unique_keys else None,
    )


def _real(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _RefusedError(f"{shown(digits)} is too large for a number", digits)
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise _RefusedError(f"the key {shown(twice)} is given twice")
    return found


def _place(text: str, piece: str) -> int | None:
    place = text.find(piece)
    return None if place < 0 else place


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_surrogate, value))


def _without_surrogates(value: Any, count: Callable[[], None]) -> Any:
    if isinstance(value, str):
        if not _has_surrogate(value):
            return value
        count()
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {
            _without_surrogates(key, count): _without_surrogates(item, count)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_surrogates(item, count) for item in value]
    return value
