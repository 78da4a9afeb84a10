"""PNG, JPEG, TIFF and other plain image files as radiographs."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from llava_rad.errors import ImageError
from llava_rad.images.color import warn_if_colored
from llava_rad.images.frames import chosen_frame
from llava_rad.images.gif_stream import check_gif
from llava_rad.images.integrity import cut_off
from llava_rad.images.jpeg2000_stream import check_jpeg2000
from llava_rad.images.jpeg_stream import check_jpeg
from llava_rad.images.limits import MIN_SIDE, check_size, too_large
from llava_rad.images.photometric import picture_of, render
from llava_rad.images.png_stream import check_png
from llava_rad.images.radiograph import Notes, Radiograph, Rendering
from llava_rad.images.tiff_stream import check_tiff, check_tiff_start
from llava_rad.images.webp_stream import check_webp

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
_JPEG2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two: BigTIFF
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    *_TIFF,
    b"BM",
    b"GIF8",
    b"RIFF",
    *_JPEG2000,
    *(b"P2", b"P5", b"P6"),  # PGM, PPM
)
_UNCOMPRESSED = ("raw", "ppm", "ppm_plain")  # of Pillow's decoders
_ORIENTATION = 0x0112
# TIFF 6.0 tags
_WIDTH, _LENGTH = 256, 257
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
# What Pillow says of data that are cut or damaged.
_DAMAGE = ("truncated", "broken data", "overrun", "not enough", "next frame", "decoder object")
_LOSSY = {"JPEG": True, "MPO": True, "WEBP": None, "JPEG2000": None}  # None: not known


def looks_like_raster(data: bytes) -> bool:
    """Return whether data start like an image file that can be read."""
    return data.startswith(_STARTS)


def read_raster(data: bytes, *, rendering: Rendering, frame: int | None, source: str) -> Radiograph:
    """Read the bytes of an image file.

    These formats carry no window. With the rendering ``"voi"`` a picture of at most 8 bits is
    shown as it is, deeper ones by min-max. The orientation of the EXIF data is applied as the
    standard says; where it mirrors the picture, and so swaps left and right, a warning of kind
    ``mirrored`` says so. Transparent pixels lie on black, color becomes luma (ITU-R BT.601).

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes()
    with opened_raster(data, frame, notes) as (image, orientation):
        gray, bits, inverted = _seen(image, orientation, notes)
        tags = dict(getattr(image, "tag_v2", {}))
    stored_bits = data[24] if image.format == "PNG" else max(tags.get(_BITS_PER_SAMPLE, (8,)))
    if bits == 8 < stored_bits:
        notes.warn(
            "depth",
            f"of {stored_bits} bits a sample the upper 8 were read; {stored_bits} bits are kept "
            "for gray without alpha only",
        )
    return rendered(gray, bits, notes, inverted=inverted, rendering=rendering, source=source)


def read_image(
    image: Image.Image, *, rendering: Rendering, frame: int | None, source: str
) -> Radiograph:
    """Read a picture that Pillow holds as its file would be read.

    What only a file shows stays unchecked: whether it is whole, and bits that Pillow left out.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes()
    here = image.tell()
    image.seek(chosen_frame(_frames(image), frame))
    try:
        check_size(image.height, image.width)
        orientation = _orientation(image, notes)
        notes.facts.update(file_format=image.format or "memory", mode=image.mode)
        notes.facts["lossy"] = _LOSSY.get(str(image.format), False)
        _load(image)
        gray, bits, inverted = _seen(image, orientation, notes)
    finally:
        image.seek(here)
    return rendered(gray, bits, notes, inverted=inverted, rendering=rendering, source=source)


def _seen(image: Image.Image, orientation: int, notes: Notes) -> tuple[NDArray[Any], int, bool]:
    """Gray values of a loaded picture as seen, their bits, and whether the lowest is white."""
    tags = dict(getattr(image, "tag_v2", {}))
    # Pillow turns white-is-zero TIFF pictures of up to 8 bits and leaves deeper ones.
    inverted = tags.get(_PHOTOMETRIC) == 0 and image.mode[0] in "IF"
    gray, bits = _gray(image, notes)
    gray = as_seen(gray, image.format, orientation)
    if tags.get(_SAMPLE_FORMAT) == (1,) and tags.get(_BITS_PER_SAMPLE) == (32,):
        gray = gray.view(np.uint32)  # Pillow has signed 32-bit pictures only
    return gray, bits, inverted


def rendered(
    gray: NDArray[Any],
    bits: int,
    notes: Notes,
    *,
    inverted: bool,
    rendering: Rendering,
    source: str,
) -> Radiograph:
    """A radiograph of gray values that come without a header.

    Args:
        gray: [height, width], integers or floats.
        bits: of each value.
        notes: facts and warnings so far; ``file_format``, ``mode`` and ``lossy`` are there.
        inverted: whether the lowest value is white.
        rendering: see ``load_radiograph``.
        source: path or name.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes.facts["bits_stored"] = bits
    curve, name = None, "none"
    if rendering == "voi":
        if bits <= 8:
            curve, name = (lambda values: values / 255), "full_range"
        else:
            notes.warn("voi", "the file states no window; rendered by min-max")
            name = "minmax"
    pixels = render(picture_of(gray), curve=curve, curve_name=name, inverted=inverted, notes=notes)
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


@contextmanager
def opened_raster(
    data: bytes, frame: int | None, notes: Notes, *, smallest: int = MIN_SIDE
) -> Iterator[tuple[Image.Image, int]]:
    """Check, open and decode one picture of an image file.

    Args:
        data: the file.
        frame: counted from 1; None for the only one.
        notes: receives facts and warnings.
        smallest: see ``check_size``.

    Yields:
        The picture and its EXIF orientation, 1 to 8, see :func:`as_seen`.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    if data.startswith(b"\x89PNG"):
        check_png(data)
    elif data.startswith(b"\xff\xd8"):
        check_size(*check_jpeg(data), smallest=smallest)
    elif data.startswith(_JPEG2000):
        check_size(*check_jpeg2000(data), smallest=smallest)
    elif data.startswith(_TIFF):
        check_tiff_start(data)
    elif data.startswith(b"GIF8"):
        check_gif(data)
    elif data.startswith(b"RIFF"):
        check_webp(data)
    with _open(data) as image:
        image.seek(chosen_frame(_frames(image), frame))
        check_size(image.height, image.width, smallest=smallest)
        if _is_uncompressed(image) and 8 * len(data) < image.height * image.width:
            raise cut_off()  # before memory is given to it
        orientation = _orientation(image, notes)
        tags = dict(getattr(image, "tag_v2", {}))
        if image.format == "TIFF":
            check_tiff(data, tags)
        notes.facts.update(
            file_format=image.format, mode=image.mode, lossy=_LOSSY.get(str(image.format), False)
        )
        _load(image)
        yield image, orientation


def _frames(image: Image.Image) -> int:
    # The further pictures of an MPO file are for screens and for depth.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _is_uncompressed(image: Image.Image) -> bool:
    return any(tile[0] in _UNCOMPRESSED for tile in getattr(image, "tile", ())[:1])


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large(str(error)) from error
    except UnidentifiedImageError:
        raise
    except OSError as error:
        raise _undecodable(error) from error


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, ValueError) as error:
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> ImageError:
    damaged = any(word in str(error).lower() for word in _DAMAGE)
    return ImageError(
        f"the picture cannot be decoded: {error}",
        remedy="Copy or download the file again",
        kind="truncated_image" if damaged else "broken_image",
    )


def _orientation(image: Image.Image, notes: Notes) -> int:
    """Return the EXIF orientation, 1 to 8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's EXIF reader raises many kinds for damaged data
        notes.warn("exif", "the EXIF data are unreadable; no orientation applied")
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


def raster_size(data: bytes) -> tuple[int, int]:
    """Return rows and columns of an image file as it is seen, without decoding it.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    with _open(data) as image:
        # Newer versions of Pillow state the size of a turned TIFF file as it is seen.
        tags = getattr(image, "tag_v2", {})
        rows, columns = tags.get(_LENGTH, image.height), tags.get(_WIDTH, image.width)
        turned = _orientation(image, Notes()) in (5, 6, 7, 8)
        return (columns, rows) if turned else (rows, columns)


def as_seen(gray: NDArray[Any], file_format: str | None, orientation: int) -> NDArray[Any]:
    """Turn and mirror stored pixels as an EXIF orientation (TIFF 6.0, tag 274) says."""
    if file_format == "TIFF":  # Pillow turns those itself while loading
        return gray
    if orientation in (5, 6, 7, 8):
        gray = gray.T
    if orientation in (2, 3, 6, 7):
        gray = gray[:, ::-1]
    if orientation in (3, 4, 7, 8):
        gray = gray[::-1]
    return gray


def _gray(image: Image.Image, notes: Notes) -> tuple[NDArray[Any], int]:
    """Return one gray channel and its bits."""
    mode = image.mode
    if mode.startswith("I;16"):
        gray = np.asarray(image).astype(np.uint16)
        if "transparency" in image.info:  # one value that is see-through
            gray[gray == image.info["transparency"]] = 0
        return gray, 16
    if mode in ("I", "F"):
        return np.asarray(image), 32
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = image.convert("RGBA")
        warn_if_colored(np.asarray(rgba)[..., :3], 255, notes)
        gray = np.asarray(rgba.convert("RGB").convert("L")).astype(np.uint16)
        return ((gray * np.asarray(rgba)[..., 3] + 127) // 255).astype(np.uint8), 8
    if mode in ("1", "L"):
        return np.asarray(image.convert("L")), 1 if mode == "1" else 8
    notes.facts["color"] = mode
    rgb = image.convert("RGB")
    warn_if_colored(np.asarray(rgb), 255, notes)
    return np.asarray(rgb.convert("L")), 8
