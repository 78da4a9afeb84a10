"""Pictures to look at: outlines over radiographs, colour maps of tokens, sheets of tiles."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from llava_rad.probing.masks import Mask

Gray = NDArray[np.uint8]
TRUE_COLOUR = (64, 220, 120)
PREDICTED_COLOURS = ((255, 92, 92), (255, 190, 60), (90, 170, 255), (220, 120, 255))
_CAPTION = 18  # pixels below a tile


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its longer side at most ``side``."""
    factor = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def overlay(
    pixels: Gray,
    true: Sequence[Mask | None],
    predicted: Sequence[Mask],
    *,
    side: int = 384,
) -> Image.Image:
    """A radiograph with true outlines in green and predicted ones each in a colour of its own.

    Args:
        pixels: [height, width].
        true: masks of any size that cover the image, None where not known.
        predicted: likewise.
        side: longer side of the picture.
    """
    picture = shrink(Image.fromarray(pixels).convert("RGB"), side)
    canvas = np.asarray(picture).copy()
    layers = [(mask, TRUE_COLOUR) for mask in true if mask is not None]
    layers += [
        (mask, PREDICTED_COLOURS[index % len(PREDICTED_COLOURS)])
        for index, mask in enumerate(predicted)
    ]
    for mask, colour in layers:
        small = Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)
        inside = np.asarray(small, bool)
        outline = inside & ~ndimage.binary_erosion(inside)
        canvas[ndimage.binary_dilation(outline) & inside] = colour
    return Image.fromarray(canvas)


def heat(pixels: Gray, values: NDArray[np.floating], *, side: int = 384) -> Image.Image:
    """A radiograph with a grid of values over it, from transparent blue to yellow.

    Args:
        pixels: as the encoder saw them, [height, width].
        values: [rows, columns]; the smallest is transparent, the largest is brightest.
        side: longer side of the picture.
    """
    picture = shrink(Image.fromarray(pixels).convert("RGB"), side)
    spread = float(values.max() - values.min())
    scaled = (values - values.min()) / (spread if spread > 0 else 1.0)
    grid = Image.fromarray((255 * scaled).astype(np.uint8))
    strength = (
        np.asarray(grid.resize(picture.size, Image.Resampling.BICUBIC), float)[..., None] / 255
    )
    colour = np.concatenate([255 * strength, 210 * strength**1.5, 255 * (1 - strength)], axis=2)
    opacity = 0.75 * strength
    mixed = (1 - opacity) * np.asarray(picture, float) + opacity * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


def colour_grid(colours: NDArray[np.floating], size: tuple[int, int]) -> Image.Image:
    """A grid of colours in [0, 1], [rows, columns, 3], as tiles of an image of ``size``."""
    image = Image.fromarray((255 * colours.clip(0, 1)).round().astype(np.uint8))
    return image.resize(size, Image.Resampling.NEAREST)


def sheet(rows: Sequence[Sequence[tuple[Image.Image, str]]], *, gap: int = 8) -> Image.Image:
    """Rows of pictures, each with a caption of one line below it, on black.

    Args:
        rows: of (picture, caption).
        gap: pixels between tiles.
    """
    font = ImageFont.load_default(size=13)
    width = max(gap + sum(picture.width + gap for picture, _ in row) for row in rows)
    heights = [max(picture.height for picture, _ in row) + _CAPTION + gap for row in rows]
    canvas = Image.new("RGB", (width, sum(heights) + gap))
    draw = ImageDraw.Draw(canvas)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for picture, caption in row:
            canvas.paste(picture, (left, top))
            text = caption
            while text and draw.textlength(text, font) > picture.width:
                text = text[:-1]
            draw.text((left, top + picture.height + 1), text, fill=(190, 190, 190), font=font)
            left += picture.width + gap
        top += height
    return canvas
