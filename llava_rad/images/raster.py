"""PNG, JPEG, TIFF and other plain image files as radiographs."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_rad.errors import ImageError
from llava_rad.images.integrity import check_png, jpeg_size
from llava_rad.images.limits import check_size
from llava_rad.images.photometric import levels_of, render
from llava_rad.images.radiograph import Notes, Radiograph, Rendering

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"BM",
    b"GIF8",
    b"RIFF",
    b"\x00\x00\x00\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"P5",
    b"P2",
)
_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC = 262


def looks_like_raster(data: bytes) -> bool:
    """Return whether data start like an image file that can be read."""
    return data.startswith(_STARTS)


def read_raster(data: bytes, *, rendering: Rendering, source: str) -> Radiograph:
    """Read the bytes of an image file.

    These formats carry no window. With the rendering ``"voi"`` a picture of at most 8 bits is
    shown as it is, deeper ones by min-max. The orientation of the EXIF data is applied as the
    standard says; where it mirrors the picture, and so swaps left and right, a warning of kind
    ``mirrored`` says so. Transparent pixels lie on black, color becomes luma (ITU-R BT.601).

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes()
    if data.startswith(b"\x89PNG"):
        check_png(data)
    elif data.startswith(b"\xff\xd8"):
        check_size(*jpeg_size(data))
    with _open(data) as image:
        check_size(image.height, image.width)
        if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
            raise ImageError(
                f"the file holds {image.n_frames} pictures, a radiograph has one",  # type: ignore[attr-defined]
                remedy="Save the picture you mean as a file of its own",
                kind="multi_frame",
            )
        orientation = _orientation(image, notes)
        white_is_zero = _is_white_is_zero(image)
        _load(image)
        gray, bits = _gray(image, notes)
        if image.format == "TIFF" and orientation != 1:
            # Pillow has turned TIFF pictures already while loading.
            turned = image.getexif().get(_ORIENTATION) is None
        else:
            turned = False
        notes.facts.update(
            file_format=image.format,
            mode=image.mode,
            bits_stored=bits,
            lossy=image.format in ("JPEG", "MPO"),
        )
    if not turned:
        gray = _oriented(gray, orientation)

    levels = levels_of(gray)
    curve, name = None, "none"
    if rendering == "voi":
        if bits <= 8:
            curve, name = (lambda values: values / 255), "full_range"
        else:
            notes.warn("voi", "the file states no window; rendered by min-max")
            name = "minmax"
    pixels = render(
        levels,
        levels.values,
        padding=np.zeros(levels.values.shape, bool),
        curve=curve,
        curve_name=name,
        inverted=white_is_zero,
        notes=notes,
    )
    return Radiograph(
        pixels=pixels,
        rendering=rendering,
        view="unknown",
        view_position=None,
        laterality=None,
        pixel_spacing=None,
        photometric=notes.facts,
        warnings=tuple(notes.warnings),
        source=source,
    )


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"the picture is too large: {error}",
            remedy="Scale it down before loading",
            kind="too_large",
        ) from error


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except OSError as error:
        truncated = "truncated" in str(error).lower()
        raise ImageError(
            f"the picture cannot be decoded: {error}",
            remedy="Copy or download the file again",
            kind="truncated_image" if truncated else "broken_image",
        ) from error


def _orientation(image: Image.Image, notes: Notes) -> int:
    """Return the EXIF orientation, 1 to 8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow's EXIF reader raises many kinds for damaged data
        notes.warn("exif", f"the EXIF data are unreadable ({error}); no orientation applied")
        return 1
    if value not in range(1, 9):
        return 1
    notes.facts["exif_orientation"] = int(value)
    if value in (2, 4, 5, 7):
        notes.warn(
            "mirrored",
            f"EXIF orientation {value} mirrors the picture and was applied: left and right are "
            "swapped against the stored pixels; check the side marker",
        )
    return int(value)


def _oriented(gray: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror stored pixels as an EXIF orientation (TIFF 6.0, tag 274) says."""
    if orientation in (5, 6, 7, 8):
        gray = gray.T
    if orientation in (2, 3, 6, 7):
        gray = gray[:, ::-1]
    if orientation in (3, 4, 7, 8):
        gray = gray[::-1]
    return gray


def _is_white_is_zero(image: Image.Image) -> bool:
    """Return whether small values are white and Pillow does not say so.

    Pillow turns WhiteIsZero TIFF pictures of up to 8 bits and leaves deeper ones as they are.
    """
    tags = getattr(image, "tag_v2", {})
    return tags.get(_TIFF_PHOTOMETRIC) == 0 and image.mode.startswith(("I", "F"))


def _gray(image: Image.Image, notes: Notes) -> tuple[NDArray[Any], int]:
    """Return one gray channel and its bits."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), 16
    if mode in ("I", "F"):
        return np.asarray(image), 32
    if mode == "1":
        return np.asarray(image.convert("L")), 1
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        gray = np.asarray(image.convert("RGBA").convert("RGB").convert("L")).astype(np.uint16)
        return ((gray * rgba[..., 3] + 127) // 255).astype(np.uint8), 8
    if mode != "L":
        notes.facts["color"] = mode
        image = image if mode in ("RGB", "CMYK", "YCbCr") else image.convert("RGB")
        image = image.convert("RGB").convert("L")
    return np.asarray(image), 8
