r"""File names that are not plain text: how they are stored, and how they are shown.

A name on Linux is bytes. Python holds those that are no UTF-8 as lone surrogates, which neither
JSON nor Parquet nor safetensors may hold. Wherever a name is stored it is therefore written with
:func:`escape_name`, and read back with :func:`unescape_name`:

- a byte that is no UTF-8 is ``\x`` and two lower-case hex digits (``scan\xff.dcm``);
- any other lone surrogate is ``\u`` and four (``\ud800``);
- a backslash that stands in front of what would read as one of these is ``\x5c``.

Every other name is stored as it is, and every name comes back exactly.
"""

import os
import re

_ESCAPED = re.compile(r"\\(?:x(5c|[89a-f][0-9a-f])|u(d[89a-f][0-9a-f]{2}))")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def escape_name(name: str | os.PathLike[str]) -> str:
    """A name as text that is valid in UTF-8."""
    name = os.fspath(name)
    if name.isascii() and "\\" not in name:
        return name
    text = _ESCAPED.sub(lambda match: rf"\x5c{match[0][1:]}", name)
    return _SURROGATE.sub(_written, text)


def unescape_name(text: str) -> str:
    """The name that :func:`escape_name` wrote."""
    return _ESCAPED.sub(_read, text) if "\\" in text else text


def plain_text(text: str) -> str:
    """A text that is valid in UTF-8, for ids that are only compared; names need not come back."""
    return text if text.isascii() else _SURROGATE.sub(_written, text)


def one_line(text: str) -> str:
    r"""A text for a person: no line break, control character or lone surrogate.

    What cannot be printed is escaped as in a Python string (``\n``, ``\u202e``).
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in plain_text(text)
    )


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    # Bytes 0x80 to 0xff are U+DC80 to U+DCFF (PEP 383).
    return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else rf"\u{code:04x}"


def _read(match: re.Match[str]) -> str:
    if match[1] == "5c":
        return "\\"
    return chr(0xDC00 + int(match[1], 16)) if match[1] else chr(int(match[2], 16))
