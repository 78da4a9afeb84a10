"""Pictures to look at: radiographs made smaller, and values of tokens as colours over them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Gray = NDArray[np.uint8]

# The strongest are opaque and bright, so that lightness alone tells the order.
_HEAT = np.array([[0.1, 0.1, 0.45], [0.55, 0.1, 0.45], [0.9, 0.4, 0.15], [0.99, 0.95, 0.55]])
_OPACITY = 0.85

# Against and for, each from transparent to opaque: blue and orange of the figures' palette.
_AGAINST, _FOR = np.array([0.34, 0.71, 0.91]), np.array([0.9, 0.62, 0.0])


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its longer side at most ``side``."""
    factor = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def heat(pixels: Gray, values: NDArray[np.floating], *, top: float, side: int = 384) -> Image.Image:
    """A radiograph with a grid of values over it; :func:`heat_colours` says what they look like.

    Args:
        pixels: as the encoder saw them, [height, width].
        values: [rows, columns]; 0 is transparent.
        top: the value that is brightest, as larger ones are.
        side: longer side of the picture.
    """
    picture = shrink(Image.fromarray(pixels).convert("RGB"), side)
    scaled = (values / (top if top > 0 else 1.0)).clip(0, 1)
    grid = Image.fromarray((255 * scaled).astype(np.uint8))
    strength = np.asarray(grid.resize(picture.size, Image.Resampling.BICUBIC), float) / 255
    mixed = heat_colours(strength, np.asarray(picture, float) / 255)
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def signed_heat(
    pixels: Gray, values: NDArray[np.floating], *, top: float, side: int = 384
) -> Image.Image:
    """A radiograph with signed values over it: orange above 0, blue below, as :func:`heat` else."""
    picture = shrink(Image.fromarray(pixels).convert("RGB"), side)
    scaled = (values / (top if top > 0 else 1.0)).clip(-1, 1).astype(np.float32)
    grid = Image.fromarray(scaled).resize(picture.size, Image.Resampling.BILINEAR)
    mixed = signed_colours(np.asarray(grid, float), np.asarray(picture, float) / 255)
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def signed_colours(
    strength: NDArray[np.floating], below: NDArray[np.floating]
) -> NDArray[np.float64]:
    """As :func:`heat_colours`, of values in [-1, 1]."""
    colour = np.where(strength[..., None] < 0, _AGAINST, _FOR)
    opacity = (_OPACITY * np.abs(strength))[..., None]
    return (1 - opacity) * below + opacity * colour


def heat_colours(
    strength: NDArray[np.floating], below: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The colours of values over a picture.

    Args:
        strength: values in [0, 1], any shape.
        below: the picture's colours in [0, 1], that shape and 3.
    """
    steps = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(strength, steps, _HEAT[:, i]) for i in range(3)], axis=-1)
    opacity = (_OPACITY * np.sqrt(strength))[..., None]
    return (1 - opacity) * below + opacity * colour


def colour_grid(colours: NDArray[np.floating], size: tuple[int, int]) -> Image.Image:
    """A grid of colours in [0, 1], [rows, columns, 3], as tiles of an image of ``size``."""
    image = Image.fromarray((255 * colours.clip(0, 1)).round().astype(np.uint8))
    return image.resize(size, Image.Resampling.NEAREST)
