"""From stored values to 8-bit grays: levels, windows, min-max, polarity.

A radiograph of up to 16 bits has far fewer gray levels than pixels, so every step works on the
table of levels and the picture is looked up once at the end. Wider integers and floats go through
the same steps block by block. Neither makes a copy of the picture beside its 8-bit rendering.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import ImageError
from llava_rad.images.radiograph import Notes

# A picture in which 98 % of the pixels share an eighth of the gray scale is hardly readable.
_LOW_CONTRAST = 32
# By how much of their range the pixels at the edge of a shutter may widen it.
_EDGE_SHARE = 0.1
_BLOCK = 2**19  # pixels

Values = NDArray[np.float64]
Curve = Callable[[Values], Values]
"""Maps values to the unit interval: 0 is black, 1 is white, before polarity."""


@dataclass(frozen=True)
class Region:
    """The part of a picture that no shutter covers.

    Attributes:
        shown: bool [height, width].
        inner: bool [height, width], the same without the pixels at the edge.
    """

    shown: NDArray[np.bool_]
    inner: NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """Values of a picture, and how many of its pixels have each.

    Attributes:
        values: float64 [n].
        shown: int or bool [n], pixels that no shutter covers.
        inner: int or bool [n], those of them that are not at its edge.
    """

    values: Values
    shown: NDArray[np.integer | np.bool_]
    inner: NDArray[np.integer | np.bool_]


class Picture(ABC):
    """An image [height, width] of integers or floats."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """All values, in one or several parts."""

    @abstractmethod
    def rendered(self, gray: Callable[[Values], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return uint8 [height, width] with the gray of every value that is not covered."""


class Levels(Picture):
    """A picture of few levels: a table of them, and the level of each pixel."""

    def __init__(
        self, values: Values, index: NDArray[np.unsignedinteger], region: Region | None
    ) -> None:
        self.index, self.size = index, len(values)
        shown = self._count(None if region is None else region.shown)
        inner = shown if region is None else self._count(region.inner)
        self.used = np.flatnonzero(shown)  # of 65,536 levels most pictures have a few thousand
        self.part = Part(values[self.used], shown[self.used], inner[self.used])

    def _count(self, mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        counts = np.zeros(self.size, np.int64)
        for rows in blocks(self.index):
            block = self.index[rows] if mask is None else self.index[rows][mask[rows]]
            counts += np.bincount(block.ravel(), minlength=len(counts))
        return counts

    def parts(self) -> Iterator[Part]:
        """See :class:`Picture`."""
        yield self.part

    def rendered(self, gray: Callable[[Values], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """See :class:`Picture`."""
        table = np.zeros(self.size, np.uint8)
        table[self.used] = gray(self.part.values)
        out = np.empty(self.index.shape, np.uint8)
        for rows in blocks(self.index):
            out[rows] = table[self.index[rows]]
        return out


class Wide(Picture):
    """A picture of more levels than a table is good for."""

    def __init__(self, pixels: NDArray[np.generic], region: Region | None) -> None:
        self.pixels, self.region = pixels, region

    def parts(self) -> Iterator[Part]:
        """See :class:`Picture`."""
        for rows in blocks(self.pixels):
            values = self.pixels[rows].astype(np.float64).ravel()
            if self.region is None:
                every = np.ones(values.shape, bool)
                yield Part(values, every, every)
            else:
                shown, inner = self.region.shown[rows], self.region.inner[rows]
                yield Part(values, shown.ravel(), inner.ravel())

    def rendered(self, gray: Callable[[Values], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """See :class:`Picture`."""
        out = np.empty(self.pixels.shape, np.uint8)
        for rows in blocks(self.pixels):
            out[rows] = gray(self.pixels[rows].astype(np.float64))
        return out


def blocks(pixels: NDArray[np.generic]) -> Iterator[slice]:
    """Slices of rows that hold about ``_BLOCK`` pixels."""
    step = max(1, _BLOCK // max(1, pixels.shape[1]))
    for start in range(0, pixels.shape[0], step):
        yield slice(start, start + step)


def picture_of(pixels: NDArray[np.generic], region: Region | None = None) -> Picture:
    """Take an image [height, width] of integers or floats as levels where they are few.

    Raises:
        ImageError: ``not_finite`` if a value is NaN or infinite.
    """
    if pixels.dtype.kind == "f":
        if not all(np.isfinite(pixels[rows]).all() for rows in blocks(pixels)):
            raise ImageError(
                "the picture holds values that are not finite numbers",
                remedy="Replace NaN and infinite values before saving the file",
                kind="not_finite",
            )
        return Wide(pixels, region)
    if pixels.dtype.kind == "b":
        pixels = pixels.view(np.uint8)
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    bits = 8 * pixels.dtype.itemsize
    if bits <= 16:
        # The pixels, taken as unsigned, are the index of a table of all their values.
        unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
        values = np.arange(2**bits).astype(unsigned).view(pixels.dtype)
        return Levels(values.astype(np.float64), pixels.view(unsigned), region)
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= 2**16:
        return Wide(pixels, region)
    index = np.empty(pixels.shape, np.uint16)
    for rows in blocks(pixels):
        index[rows] = np.subtract(pixels[rows], low, dtype=np.int64)
    return Levels(np.arange(low, high + 1).astype(np.float64), index, region)


@dataclass(frozen=True)
class Window:
    """Window center and width with a VOI LUT Function (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: str = "LINEAR"

    def problem(self) -> str:
        """Return why this window cannot be used, or an empty string."""
        if self.function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            return f"VOI LUT Function {self.function!r} is not defined"
        if not np.isfinite([self.center, self.width]).all():
            return "window center or width is not a number"
        if self.width < 1 if self.function == "LINEAR" else self.width <= 0:
            return f"window width {self.width:g} is too small for {self.function}"
        return ""

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map values to the unit interval."""
        if self.function == "SIGMOID":
            # 1 / (1 + exp(-4 x / w)), written so that it cannot overflow.
            return 0.5 + 0.5 * np.tanh(2 * (values - self.center) / self.width)
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        if self.width == 1:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


def _same(values: Values) -> Values:
    return values


def _nowhere(values: Values) -> NDArray[np.bool_]:
    return np.zeros(values.shape, bool)


@dataclass(frozen=True)
class Scale:
    """What becomes of the values of a picture before they are grays.

    Attributes:
        modality: from stored values to those that windows are stated in.
        padding: which stored values are no part of the picture.
    """

    modality: Curve = _same
    padding: Callable[[Values], NDArray[np.bool_]] = _nowhere


def extent(picture: Picture, scale: Scale) -> tuple[float, float] | None:
    """Return the smallest and the largest value after the modality step, None if there is none.

    Padding and what a shutter covers do not count. Where a shutter ends is stated in different
    ways, counted from 0 or 1 and with the edge inside or outside, so the pixels at its edge widen
    the range by a tenth at most: a bright border stays out of it.
    """
    inner = _extent(picture, scale, lambda part: part.inner)
    shown = _extent(picture, scale, lambda part: part.shown)
    if inner is None or shown is None or inner == shown:
        return inner or shown
    slack = _EDGE_SHARE * (inner[1] - inner[0])
    within = inner[0] - slack, inner[1] + slack
    return _extent(picture, scale, lambda part: part.shown, within) or inner


def _extent(
    picture: Picture,
    scale: Scale,
    counted: Callable[[Part], NDArray[np.integer | np.bool_]],
    within: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float] | None:
    low, high = np.inf, -np.inf
    for part in picture.parts():
        used = scale.modality(part.values[(counted(part) > 0) & ~scale.padding(part.values)])
        if within != (-np.inf, np.inf):
            used = used[(used >= within[0]) & (used <= within[1])]
        if used.size:
            low, high = min(low, float(used.min())), max(high, float(used.max()))
    return None if low > high else (low, high)


def value_range(picture: Picture, scale: Scale) -> tuple[float, float]:
    """Return the smallest and the largest valid value.

    Raises:
        ImageError: ``constant_image`` if they are equal or no value is valid, ``not_finite`` if
            they are not finite.
    """
    low, high = extent(picture, scale) or (0.0, 0.0)
    if not np.isfinite(high - low):
        raise ImageError(
            "the values span more than a number can hold",
            remedy="Check the rescale slope and the pixel data of the file",
            kind="not_finite",
        )
    if low == high:
        raise ImageError(
            "all pixels have the same value, there is no picture in it",
            remedy="Export the image again",
            kind="constant_image",
        )
    return low, high


def render(
    picture: Picture,
    scale: Scale | None = None,
    *,
    curve: Curve | None,
    curve_name: str,
    inverted: bool,
    notes: Notes,
) -> NDArray[np.uint8]:
    """Return the picture as uint8 [height, width].

    Args:
        picture: see :func:`picture_of`.
        scale: its modality step and padding; padding is out of the range and shown as 0.
        curve: what makes grays of values; None for min-max.
        curve_name: recorded as the fact ``voi``.
        inverted: whether the smallest value is white (MONOCHROME1).
        notes: receives facts and warnings.

    Raises:
        ImageError: see ``value_range``.
    """
    scale = scale or Scale()
    low, high = value_range(picture, scale)

    def minmax(values: Values) -> Values:
        return (values - low) / (high - low)

    def gray(stored: Values) -> NDArray[np.uint8]:
        grays = _grays((curve or minmax)(scale.modality(stored)), inverted)
        grays[scale.padding(stored)] = 0
        return grays

    counts = _histogram(picture, scale, gray)
    if curve is not None and np.count_nonzero(counts) < 2:
        notes.warn(
            "voi",
            f"the {curve_name} lies beside the data and leaves one gray; "
            "rendered by min-max instead",
        )
        curve, curve_name = None, "minmax"
        counts = _histogram(picture, scale, gray)

    notes.facts.update(value_range=[low, high], voi=curve_name, inverted=inverted)
    if _spread(counts) < _LOW_CONTRAST:
        notes.warn(
            "low_contrast",
            "98 % of the pixels share an eighth of the gray scale; a few pixels far from the "
            "others or an unfit window leave the rest without contrast",
        )
    return picture.rendered(gray)


def _grays(unit: Values, inverted: bool) -> NDArray[np.uint8]:
    unit = np.clip(1 - unit if inverted else unit, 0, 1)
    return np.rint(255 * unit).astype(np.uint8)


def _histogram(
    picture: Picture, scale: Scale, gray: Callable[[Values], NDArray[np.uint8]]
) -> NDArray[np.float64]:
    """How many pixels have each of the 256 grays, padding and what is covered left out."""
    counts = np.zeros(256)
    for part in picture.parts():
        weights = part.shown * ~scale.padding(part.values)
        counts += np.bincount(gray(part.values), weights=weights, minlength=256)
    return counts


def _spread(counts: NDArray[np.float64]) -> int:
    """Return the distance between the 1st and the 99th percentile of the grays."""
    shares = np.cumsum(counts) / counts.sum()
    return int(np.searchsorted(shares, 0.99) - np.searchsorted(shares, 0.01))
