"""Masks of structures, through the same door as pictures."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_rad.errors import ImageError
from llava_rad.images.dicom import looks_like_dicom, open_dicom
from llava_rad.images.dicom_pixels import read_stored
from llava_rad.images.load import content_of, image_errors, label_of, require_raster
from llava_rad.images.radiograph import Notes
from llava_rad.images.raster import as_seen, opened_raster


def load_mask(
    source: str | Path | bytes | BinaryIO, *, value: int | None = None
) -> NDArray[np.bool_]:
    """Read where a structure is, from a file of any format that pictures come in.

    The file's samples are taken as they are: of a palette its indices and not its colors, 16 bits
    as 16 bits, of a DICOM file the stored values. An EXIF orientation is applied. Transparent
    pixels are outside; where everything else is black, what is not transparent is inside. Lossy
    JPEG blurs edges, so there inside is what is brighter than half of the brightest.

    Args:
        source: as of ``load_radiograph``.
        value: the structure's label in a map of several structures; without it everything is
            inside that is not 0.

    Returns:
        bool [height, width].

    Raises:
        ImageError: the file cannot be read, or has no labels and a value was given:
            ``no_labels``; else see ``load_radiograph``.
    """
    name = label_of(source)
    with image_errors(name):
        data = content_of(source)
        if looks_like_dicom(data):
            pixels = read_stored(open_dicom(data), Notes(), None, smallest=1).values
            return _inside(pixels, None, value)
        require_raster(data, name)
        notes = Notes()
        with opened_raster(data, None, notes, smallest=1) as (image, orientation):
            samples, alpha = _samples(image)
            if notes.facts["lossy"]:
                samples = _sharpened(samples, value)
            return as_seen(_inside(samples, alpha, value), image.format, orientation)


def _samples(image: Image.Image) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return samples [height, width] or [height, width, 3], and the alpha channel if any."""
    mode = image.mode
    if mode in ("P", "PA"):
        return np.asarray(image.getchannel(0)), None
    if mode in ("LA", "La"):
        gray, alpha = (np.asarray(band) for band in image.convert("LA").split())
        return gray, alpha
    if mode in ("RGBA", "RGBa"):
        colors = np.asarray(image.convert("RGBA"))
        return colors[..., :3], colors[..., 3]
    if mode in ("1", "L", "I", "F") or mode.startswith("I;16"):
        return np.asarray(image), None
    return np.asarray(image.convert("RGB")), None


def _sharpened(samples: NDArray[Any], value: int | None) -> NDArray[Any]:
    if value is not None:
        raise ImageError(
            "lossy compression blurs label values",
            remedy="Give label maps as PNG or TIFF",
            kind="no_labels",
        )
    return samples > samples.max() / 2


def _inside(
    samples: NDArray[Any], alpha: NDArray[Any] | None, value: int | None
) -> NDArray[np.bool_]:
    gray = samples if samples.ndim == 2 else samples[..., 0]
    if samples.ndim == 3 and not (samples == samples[..., :1]).all():
        if value is not None:
            raise ImageError(
                "the mask is in color and has no label values",
                remedy="Give label maps of one channel, or a mask for each structure",
                kind="no_labels",
            )
        gray = np.any(samples, axis=-1)
    seen = np.ones(gray.shape, bool) if alpha is None else np.asarray(alpha > 0)
    if value is not None:
        return np.asarray(seen & (gray == value))
    inside = np.asarray(seen & (gray != 0))
    return inside if inside.any() or seen.all() else seen
