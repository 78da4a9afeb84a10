"""Outlines of organs as a transparent picture that lies over a radiograph."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageFilter

from llava_rad.outlines import Mask

#: Seen on black, gray and white; from the palette of Okabe and Ito (2008).
_COLOURS = ("#56b4e9", "#e69f00", "#f0e442", "#cc79a7", "#009e73", "#d55e00")
_LINES = 300  # the longer side of a picture is about as many lines wide


def colours_of(structures: Mapping[str, Mask]) -> dict[str, str]:
    """The colour of each structure's line, as ``#rrggbb``."""
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(structures)}


def outline_picture(masks: Mapping[str, Mask], size: int) -> bytes:
    """A PNG, clear but for a line inside the border of each mask.

    Args:
        masks: by name of the structure, at least one, all of the radiograph's size.
        size: longer side of the picture, at most; a smaller radiograph keeps its own.
    """
    height, width = next(iter(masks.values())).shape
    picture = Image.new("RGBA", (width, height))
    picture.thumbnail((size, size))
    radius = max(1, round(max(picture.size) / _LINES / 2))
    for name, colour in colours_of(masks).items():
        mask = Image.fromarray(masks[name].astype(np.uint8) * 255).resize(picture.size)
        inner = mask.filter(ImageFilter.MinFilter(2 * radius + 1))
        line = (np.asarray(mask) > 127) & (np.asarray(inner) <= 127)
        picture.paste(colour, mask=Image.fromarray(line.astype(np.uint8) * 255))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
