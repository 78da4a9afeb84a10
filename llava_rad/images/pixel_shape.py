"""Pixels that are not square become square, so that a disc is a disc."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_rad.images.limits import MAX_PIXELS
from llava_rad.images.radiograph import Notes

_TOLERANCE = 0.01
# Beyond this the header is wrong: a misplaced decimal point, not a detector.
_LARGEST_RATIO = 10.0


def square_size(shape: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Return rows and columns of a picture after its pixels were made square.

    The finer spacing is kept, so that nothing is lost; the coarser one where the picture would
    become too large. Pixels that are square within 1 %, and those whose sides differ more than
    ten times, stay as they are.

    Args:
        shape: rows and columns as stored.
        ratio: height of a pixel by its width.
    """
    rows, columns = shape
    if not 1 + _TOLERANCE < max(ratio, 1 / ratio) <= _LARGEST_RATIO:
        return shape
    finer = (round(rows * ratio), columns) if ratio > 1 else (rows, round(columns / ratio))
    if finer[0] * finer[1] <= MAX_PIXELS:
        return finer
    return (rows, round(columns / ratio)) if ratio > 1 else (round(rows * ratio), columns)


def made_square(pixels: NDArray[np.uint8], ratio: float, notes: Notes) -> NDArray[np.uint8]:
    """Return the picture with square pixels, see :func:`square_size`.

    Args:
        pixels: uint8 [rows, columns].
        ratio: height of a pixel by its width.
        notes: receives the fact and warning ``pixel_shape``, if they are not square.
    """
    size = square_size(pixels.shape, ratio)
    if max(ratio, 1 / ratio) > _LARGEST_RATIO:
        notes.warn(
            "pixel_shape", f"pixels are said to be {ratio:g} times as high as wide; not applied"
        )
    if size == pixels.shape:
        return pixels
    notes.facts["pixel_shape"] = ratio
    notes.warn(
        "pixel_shape",
        f"pixels are {ratio:.3g} times as high as wide; {pixels.shape[0]} x {pixels.shape[1]} "
        f"pixels were resampled to {size[0]} x {size[1]} square ones",
    )
    image = Image.fromarray(pixels)
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
