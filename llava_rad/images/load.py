"""The one door: a file in, a radiograph or an ImageError out."""

import os
import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

from llava_rad.errors import ConfigError, ImageError
from llava_rad.images.dicom import looks_like_dicom, read_dicom
from llava_rad.images.limits import MAX_BYTES, too_large
from llava_rad.images.quiet import quiet_libraries
from llava_rad.images.radiograph import Radiograph, Rendering
from llava_rad.images.raster import looks_like_raster, read_raster

_DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")


def load_radiograph(
    source: str | Path | bytes | BinaryIO,
    *,
    rendering: Rendering = "minmax",
    frame: int | None = None,
    name: str | None = None,
) -> Radiograph:
    """Read one X-ray image as an 8-bit radiograph, bones bright.

    What a file is, is decided by its content and not by its name: DICOM (with or without
    preamble; uncompressed, RLE, JPEG, JPEG-LS, JPEG 2000), PNG, JPEG, TIFF, BMP, GIF, WebP,
    JPEG 2000 and PGM.

    Args:
        source: a path, the bytes of a file, or a binary file object, read from where it stands.
        rendering: ``"minmax"`` maps the smallest valid value to 0 and the largest to 255, which
            is what RAD-DINO's training images went through; ``"voi"`` applies the file's VOI LUT
            or first window as a viewer does, and falls back to min-max with a warning.
        frame: which picture of a file that holds several, counted from 1; without it such a file
            is refused.
        name: stands for the source in messages and in ``Radiograph.source``; by default the path.

    Returns:
        The radiograph with the facts and warnings of how it was read.

    Raises:
        ImageError: for every input that gives no picture. ``kind`` is one of ``not_found``,
            ``not_a_file``, ``unreadable``, ``empty_file``, ``too_large``, ``too_small`` (under 32
            pixels a side), ``not_dicom``, ``unknown_format``, ``no_pixel_data``, ``multi_frame``,
            ``truncated_image``, ``broken_image``, ``unsupported_encoding``, ``constant_image``,
            ``not_finite``.
        ConfigError: if there is no such rendering.
    """
    if rendering not in ("minmax", "voi"):
        raise ConfigError(
            f"there is no rendering {rendering!r}", where="rendering", remedy="Use minmax or voi"
        )
    label = name or label_of(source)
    with image_errors(label):
        return _read(content_of(source), rendering, frame, label)


@contextmanager
def image_errors(label: str) -> Iterator[None]:
    """Turn whatever reading a picture raises into an ImageError that names the picture.

    Args:
        label: the picture's path or name.

    Raises:
        ImageError: instead of every other exception. The words of libraries are left out: they
            quote the file's header.
    """
    try:
        with quiet_libraries():
            yield
    except ImageError as error:
        raise ImageError(error.what, where=label, remedy=error.remedy, kind=error.kind) from None
    except MemoryError:
        failure = too_large("the picture does not fit into memory")
        failure.where = label
        raise failure from None
    except Exception as error:
        # pydicom, its plugins and Pillow raise nearly every kind of exception for damaged input.
        raise ImageError(
            f"the file is damaged or not supported ({_origin(error)})",
            where=label,
            remedy="Copy or export the file again",
            kind="broken_image",
        ) from None


def _origin(error: Exception) -> str:
    """Return an exception's kind and the place it came from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {PurePath(place.filename).name}:{place.lineno}"


def label_of(source: object) -> str:
    """Return what to call a source in messages: its path, or its kind."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "") or f"<{type(source).__name__}>")


def content_of(source: str | Path | bytes | BinaryIO) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    else:
        try:
            data = _read_all(source)
        except FileNotFoundError as error:
            raise ImageError(
                "there is no such file", remedy="Check the path", kind="not_found"
            ) from error
        except (OSError, ValueError) as error:
            raise ImageError(
                f"the file cannot be read ({error})",
                remedy="Check the path, its permissions and the disk",
                kind="unreadable",
            ) from error
    if not data:
        raise ImageError(
            "the file is empty", remedy="Copy or download the file again", kind="empty_file"
        )
    if len(data) > MAX_BYTES:
        raise too_large(f"the file is larger than {MAX_BYTES} bytes")
    return data


def _read_all(source: str | Path | BinaryIO) -> bytes:
    """Read a path or file object, but not much more than the limit."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(
                "this is a folder" if path.is_dir() else "this is not a regular file",
                remedy="Pass the path of an image file",
                kind="not_a_file",
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    data = source.read(MAX_BYTES + 1) if hasattr(source, "read") else None
    if not isinstance(data, bytes):
        raise ImageError(
            "this is neither a path, nor bytes, nor a binary file object",
            remedy='Open files with mode "rb"',
            kind="unreadable",
        )
    return data


def _read(data: bytes, rendering: Rendering, frame: int | None, label: str) -> Radiograph:
    if looks_like_dicom(data):
        return read_dicom(data, rendering=rendering, frame=frame, source=label)
    require_raster(data, label)
    return read_raster(data, rendering=rendering, frame=frame, source=label)


def require_raster(data: bytes, label: str) -> None:
    """Refuse content that is no image file.

    Raises:
        ImageError: ``not_dicom`` if the name says so, else ``unknown_format``.
    """
    if looks_like_raster(data):
        return
    if PurePath(label).suffix.lower() in _DICOM_SUFFIXES:
        raise ImageError(
            "the content is not DICOM",
            remedy="Pass a DICOM, PNG, JPEG or TIFF file",
            kind="not_dicom",
        )
    raise ImageError(
        "the content is no known image format",
        remedy="Pass a DICOM, PNG, JPEG or TIFF file",
        kind="unknown_format",
    )
