"""What data sets write for view, sex and age, in the words of a study."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from llava_rad.data.study import VIEWS, Split, StudyImage
from llava_rad.errors import DataError, shown

# Years; older values in public data sets are typing errors or stand-ins for a hidden age.
MAX_AGE = 115.0

_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_DAYS_PER_UNIT = {"Y": 365.25, "M": 30.4375, "W": 7.0, "D": 1.0}


def parse_sex(text: str | None) -> str | None:
    """``"M"`` or ``"F"``, or None for anything else."""
    first = (text or "").strip()[:1].upper()
    return first if first in ("M", "F") else None


def parse_age(text: str | float | None) -> float | None:
    """Years from ``"77"``, ``"54.0"``, ``"058Y"`` or ``"006M"``; None where it is not an age.

    Ages above :data:`MAX_AGE` are None: NIH ChestX-ray14 has patients of 411 years.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", str(text or "").upper())
    if match is None:
        return None
    years = float(match[1]) * _DAYS_PER_UNIT[match[2] or "Y"] / _DAYS_PER_UNIT["Y"]
    return round(years, 2) if years <= MAX_AGE else None


def age_band(years: float, width: int) -> str:
    """The band of so many whole years that an age is in, from a multiple of the width.

    Example:
        >>> from llava_rad.data.fields import age_band
        >>> age_band(59.5, 20)
        '40-59'
    """
    low = int(years // width) * width
    return f"{low}-{low + width - 1}"


def frontal_first(images: Iterable[StudyImage]) -> tuple[StudyImage, ...]:
    """Images in the order frontal, lateral, unknown; otherwise as given."""
    return tuple(sorted(images, key=lambda image: VIEWS.index(image.view)))


def is_file(path: Path) -> bool:
    """Whether a path made of what a table says is a file; of a name that no system holds too."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a NUL
        return False


def first_existing(*paths: Path) -> Path | None:
    """The first of the paths that is a file, or None."""
    return next((path for path in paths if is_file(path)), None)


def parse_number(text: str | None) -> float | None:
    """The number that a cell holds, or None where it holds none, or one without a finite value."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_split(word: str | None, where: object = None) -> Split | None:
    """The split behind a data set's word for it ("validate", "valid", "val", "dev" ...).

    An empty word is no split.

    Args:
        word: as the data set has it.
        where: it stands, for the message.

    Raises:
        DataError: the word is unknown.
    """
    word = (word or "").strip().lower()
    if word and word not in _SPLITS:
        raise DataError(
            f"there is no split {shown(word)}",
            where=where,
            remedy=f"Known words: {', '.join(_SPLITS)}",
            kind="unknown_split",
        )
    return _SPLITS.get(word)
