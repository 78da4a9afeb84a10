"""Color pictures: their luma, and whether they are in color at all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.images.radiograph import Notes

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the Y of DICOM's YBR
# Above what the chroma of a gray JPEG picture reaches, and more pixels than marks and stamps take.
_COLORED = 24 / 255
_SHARE = 0.1
_SAMPLES = 512  # pixels looked at along each side


def luma_of(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Return the luma of red, green and blue, [..., 3]."""
    return sum(weight * rgb[..., channel] for channel, weight in enumerate(_LUMA))  # type: ignore[return-value]


def warn_if_colored(
    pixels: NDArray[Any],
    white: int,
    notes: Notes,
    *,
    ybr: bool = False,
    counts: NDArray[Any] | None = None,
) -> None:
    """Warn, with the kind ``color``, of a photograph or a tinted film.

    Args:
        pixels: [height, width, 3] or, with counts, [n, 3].
        white: the value of full brightness.
        notes: receives the warning.
        ybr: the channels are luma and chroma, not red, green and blue.
        counts: how many pixels have each color, [n].
    """
    if counts is None:
        steps = (-(-side // _SAMPLES) for side in pixels.shape[:2])
        pixels = pixels[tuple(slice(None, None, step) for step in steps)]
    colors = pixels / white
    if ybr:
        blue, red = 1.772 * (colors[..., 1] - 0.5), 1.402 * (colors[..., 2] - 0.5)
        chroma = np.maximum(abs(blue), abs(red))
    else:
        chroma = colors.max(axis=-1) - colors.min(axis=-1)
    share = float(np.average(chroma > _COLORED, weights=counts))
    if share > _SHARE:
        notes.warn(
            "color",
            f"{share:.0%} of the pixels are in color; a radiograph is gray, this looks like a "
            "photograph or a colored picture and was read by its brightness",
        )
