"""Values of a DICOM header: read without exceptions, and quoted only where that is safe.

A damaged length lets one element swallow the next ones, the patient's name among them. What may
stand in a message is therefore bounded and of its own value representation: numbers, unique
identifiers (UI) and code strings (CS). Texts, names and dates are never quoted.
"""

import re
from typing import Any

import pydicom
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword

from llava_rad.errors import ImageError

_CODE = re.compile(r"[A-Za-z0-9 _]{1,16}")  # PS3.5 6.2, and small letters
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_MAX_TEXT = 64  # characters, the most of a Long String (LO)


def value_of(dataset: Dataset, keyword: str | int) -> Any:
    """Return the value of an element, by keyword or tag; None if it is missing or unreadable."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, DataElement):
            value = value.value
    except Exception:  # pydicom raises many kinds for damaged values
        return None
    return None if value is None or value == "" or value == b"" else value


def elements_of(dataset: Dataset) -> dict[Any, Any]:
    """Return the elements of a data set by tag, as they are, without reading their values."""
    return {tag: dataset.get_item(tag) for tag in list(dataset.keys())}


def _all_of(dataset: Dataset, keyword: str | int) -> list[Any]:
    value = value_of(dataset, keyword)
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        return list(value)
    return [] if value is None else [value]


def numbers_of(dataset: Dataset, keyword: str | int) -> list[float]:
    """Return all values of an element as numbers; nothing if one of them is none."""
    try:
        return [float(value) for value in _all_of(dataset, keyword)]
    except (ValueError, TypeError, OverflowError):
        return []


def number_of(dataset: Dataset, keyword: str | int) -> float | None:
    """Return the first value of an element as a number, None if there is none."""
    try:
        return float(_all_of(dataset, keyword)[0])
    except (IndexError, ValueError, TypeError, OverflowError):
        return None


def integer_of(dataset: Dataset, keyword: str | int) -> int | None:
    """Return the first value of an element as a whole number, None if there is none."""
    value = number_of(dataset, keyword)
    return int(value) if value is not None and value.is_integer() else None


def required_integer(dataset: Dataset, keyword: str) -> int:
    """Return the whole number without which there is no picture.

    Raises:
        ImageError: ``broken_image`` if it is missing or unreadable.
    """
    value = integer_of(dataset, keyword)
    if value is None:
        raise ImageError(
            f"{label(keyword)} is missing or unreadable",
            remedy="Export the image again",
            kind="broken_image",
        )
    return value


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """Return the first value as text without blanks, to decide by and not to be quoted.

    None if there is none, if it is longer than a text may be, or holds control characters.
    """
    values = _all_of(dataset, keyword)
    text = str(values[0]).strip(" \0") if values else ""
    return text if text and len(text) <= _MAX_TEXT and text.isprintable() else None


def code_of(dataset: Dataset, keyword: str) -> str | None:
    """Return the first value of a Code String element, None if it is none; safe to quote."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    if element is None or element.VR not in ("CS", "UN", None):
        return None
    text = text_of(dataset, keyword)
    return text if text and _CODE.fullmatch(text) else None


def codes_of(dataset: Dataset, keyword: str) -> list[str]:
    """Return all values of a Code String element, nothing if one of them is none; safe to quote."""
    texts = [str(value).strip(" \0") for value in _all_of(dataset, keyword)]
    return texts if all(_CODE.fullmatch(text) for text in texts) else []


def uid_of(dataset: Dataset, keyword: str) -> str | None:
    """Return a unique identifier, None if it is none; safe to quote."""
    values = _all_of(dataset, keyword)
    text = str(values[0]).strip(" \0") if values else ""
    return text if len(text) <= _MAX_TEXT and _UID.fullmatch(text) else None


def label(keyword: str) -> str:
    """Return an element's name and number, such as ``Rows (0028,0010)``."""
    tag = tag_for_keyword(keyword) or 0
    name = pydicom.datadict.dictionary_description(tag)
    return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
