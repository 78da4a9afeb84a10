"""Text files in UTF-8."""

from pathlib import Path

from llava_rad.errors import DataError, LlavaRadError, cut
from llava_rad.names import one_line

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(
    path: str | Path,
    *,
    error: type[LlavaRadError] = DataError,
    failure: str = "the file cannot be read",
    remedy: str = "",
    kind: str = "unreadable",
) -> str:
    """A file's text; a byte order mark is no part of it.

    Args:
        path: the file.
        error: the class of what is raised.
        failure: how the message says that there is no file or that it may not be read.
        remedy: what to do then.
        kind: of that error.

    Raises:
        LlavaRadError: of the class ``error``: the file cannot be read, is not UTF-8 or holds NUL
            bytes.
    """
    return decode(
        read_bytes(path, error=error, failure=failure, remedy=remedy, kind=kind), path, error
    )


def read_bytes(
    path: str | Path,
    *,
    error: type[LlavaRadError] = DataError,
    failure: str = "the file cannot be read",
    remedy: str = "",
    kind: str = "unreadable",
) -> bytes:
    """A file's bytes; see :func:`read_text`."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise error(
            f"{failure} ({why(problem)})", where=one_line(str(path)), remedy=remedy, kind=kind
        ) from problem


def decode(
    content: bytes,
    where: object,
    error: type[LlavaRadError] = DataError,
    *,
    line: int | None = None,
) -> str:
    """Bytes as text.

    Args:
        content: the file, or one line of it.
        where: for the message; the line is added to it.
        error: the class of what is raised.
        line: the number of the line, where ``content`` is one.

    Raises:
        LlavaRadError: as :func:`read_text` does.
    """
    if (line is None or line == 1) and content.startswith(_UTF16):
        raise error(
            "the file is UTF-16",
            where=one_line(str(where)),
            remedy="Save it as UTF-8",
            kind="not_utf8",
        )
    try:
        text = content.decode("utf-8-sig" if line is None or line == 1 else "utf-8")
    except UnicodeDecodeError as problem:
        place = line or 1 + content.count(b"\n", 0, problem.start)
        raise error(
            f"not UTF-8 (byte {content[problem.start]:#04x})",
            where=f"{one_line(str(where))}:{place}",
            remedy="Save it as UTF-8",
            kind="not_utf8",
        ) from problem
    if "\0" in text:
        place = line or 1 + text.count("\n", 0, text.index("\0"))
        raise error(
            "the file holds NUL bytes: it is no text in UTF-8, or damaged",
            where=f"{one_line(str(where))}:{place}",
            remedy="Save it as UTF-8, or copy it again",
            kind="not_utf8",
        )
    return text


def why(problem: BaseException) -> str:
    """What a library's exception says, in one line of at most 200 characters."""
    said = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return cut(one_line(said[:1000]), 200)
