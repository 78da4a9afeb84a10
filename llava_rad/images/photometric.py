"""From stored values to 8-bit grays: levels, windows, min-max, polarity.

An image has far fewer gray levels than pixels, so every step works on the table of levels and the
picture is looked up once at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import ImageError
from llava_rad.images.radiograph import Notes

# A picture in which 98 % of the pixels share an eighth of the gray scale is hardly readable.
_LOW_CONTRAST = 32

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Maps values to the unit interval: 0 is black, 1 is white, before polarity."""


@dataclass(frozen=True)
class Levels:
    """An image as a table of its gray levels and one index a pixel.

    Attributes:
        values: float64 [n], the value of each level.
        counts: int [n], how many pixels have it; 0 for a level that does not occur.
        index: integer [height, width], the level of each pixel.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    index: NDArray[np.integer]


def levels_of(pixels: NDArray[np.generic]) -> Levels:
    """Split an image [height, width] of integers or floats into levels.

    Raises:
        ImageError: ``not_finite`` if a value is NaN or infinite.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError(
            "the picture holds values that are not finite numbers",
            remedy="Replace NaN and infinite values before saving the file",
            kind="not_finite",
        )
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind in "iub" and int(high) - int(low) < 2**16:
        index = (pixels.astype(np.int64) - int(low)).astype(np.uint16)
        size = int(high) - int(low) + 1
        counts = np.bincount(index.ravel(), minlength=size)
        return Levels(np.arange(size, dtype=np.float64) + int(low), counts, index)
    # Wide integers and floats: every pixel is a level of its own.
    values = pixels.astype(np.float64).ravel()
    every = np.arange(pixels.size).reshape(pixels.shape)
    return Levels(values, np.broadcast_to(np.int64(1), values.shape), every)


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


def value_range(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the smallest and the largest valid value.

    Raises:
        ImageError: ``constant_image`` if they are equal or no value is valid, ``not_finite`` if
            they are not finite.
    """
    used = values[valid]
    low, high = (float(used.min()), float(used.max())) if used.size else (0.0, 0.0)
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
    levels: Levels,
    values: NDArray[np.float64],
    *,
    padding: NDArray[np.bool_],
    curve: Curve | None,
    curve_name: str,
    inverted: bool,
    notes: Notes,
) -> NDArray[np.uint8]:
    """Return the picture as uint8 [height, width].

    Args:
        levels: the image.
        values: float64 [n], each level's value after the modality step.
        padding: bool [n], levels that are no part of the picture: out of the range, shown as 0.
        curve: what makes grays of values; None for min-max.
        curve_name: recorded as the fact ``voi``.
        inverted: whether the smallest value is white (MONOCHROME1).
        notes: receives facts and warnings.

    Raises:
        ImageError: see ``value_range``.
    """
    valid = (levels.counts > 0) & ~padding
    low, high = value_range(values, valid)
    gray = None
    if curve is not None:
        gray = _grays(curve(values), inverted)
        if np.ptp(gray[valid]) == 0:
            notes.warn(
                "voi",
                f"the {curve_name} lies beside the data and leaves one gray; "
                "rendered by min-max instead",
            )
            gray, curve_name = None, "minmax"
    if gray is None:
        gray = _grays((values - low) / (high - low), inverted)
    gray[padding] = 0

    notes.facts.update(value_range=[low, high], voi=curve_name, inverted=inverted)
    if _spread(gray[valid], levels.counts[valid]) < _LOW_CONTRAST:
        notes.warn(
            "low_contrast",
            "98 % of the pixels share an eighth of the gray scale; a few pixels far from the "
            "others or an unfit window leave the rest without contrast",
        )
    return np.ascontiguousarray(gray[levels.index])


def _grays(unit: NDArray[np.float64], inverted: bool) -> NDArray[np.uint8]:
    unit = np.clip(1 - unit if inverted else unit, 0, 1)
    return np.rint(255 * unit).astype(np.uint8)


def _spread(grays: NDArray[np.uint8], counts: NDArray[np.int64]) -> int:
    """Return the distance between the 1st and the 99th percentile of the grays."""
    shares = np.cumsum(np.bincount(grays, weights=counts, minlength=256)) / counts.sum()
    return int(np.searchsorted(shares, 0.99) - np.searchsorted(shares, 0.01))
