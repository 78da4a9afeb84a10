"""The one door: a file or a picture in memory in, a radiograph or an ImageError out."""

import os
import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_rad.errors import ConfigError, ImageError
from llava_rad.images.dicom import looks_like_dicom, read_dicom
from llava_rad.images.limits import MAX_BYTES, check_size, too_large
from llava_rad.images.quiet import quiet_libraries
from llava_rad.images.radiograph import Notes, Radiograph, Rendering
from llava_rad.images.raster import looks_like_raster, read_image, read_raster, rendered

#: What :func:`load_radiograph` reads.
PictureSource = (
    str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.generic] | Radiograph
)

_DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima")


def load_radiograph(
    source: PictureSource,
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
        source: a path; the bytes of a file; a binary file object, read from where it stands; a
            picture of Pillow; gray values [height, width] as an array of integers or floats with
            bones bright, or uint8 [height, width, 3]; a radiograph, which comes back as it is.
        rendering: ``"minmax"`` maps the smallest valid value to 0 and the largest to 255, which
            is what RAD-DINO's training images went through; ``"voi"`` applies the file's VOI LUT
            or first window as a viewer does, and falls back to min-max with a warning.
        frame: which picture of a file that holds several, counted from 1; without it such a file
            is refused.
        name: stands for the source in messages and in ``Radiograph.source``; by default the path,
            or the kind of what is in memory, such as ``"<bytes>"``.

    Returns:
        The radiograph with the facts and warnings of how it was read.

    Raises:
        ImageError: for every input that gives no picture. ``kind`` is one of ``not_found``,
            ``not_a_file``, ``unreadable``, ``empty_file``, ``too_large``, ``too_small`` (under 32
            pixels a side), ``not_dicom``, ``unknown_format``, ``no_pixel_data``, ``multi_frame``,
            ``truncated_image``, ``broken_image``, ``unsupported_encoding``, ``constant_image``,
            ``not_finite``, ``wrong_shape`` (of an array), ``other_rendering`` (of a radiograph).
        ConfigError: if there is no such rendering.

    Example:
        >>> radiograph = llava_rad.load_radiograph("chest.dcm")
        >>> radiograph
        <Radiograph 1955 x 1841, PA, minmax, chest.dcm>
        >>> np.asarray(radiograph).dtype
        dtype('uint8')
    """
    if rendering not in ("minmax", "voi"):
        raise ConfigError(
            f"there is no rendering {rendering!r}", where="rendering", remedy="Use minmax or voi"
        )
    label = name or label_of(source)
    with image_errors(label):
        if isinstance(source, Radiograph):
            return _as_asked(source, rendering)
        if isinstance(source, Image.Image):
            return read_image(source, rendering=rendering, frame=frame, source=label)
        file = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview)
        if not file and hasattr(source, "__array__"):
            return _read_array(np.asarray(source), rendering, label)
        return _read(content_of(source), rendering, frame, label)


def is_picture_source(value: object) -> TypeGuard[PictureSource]:
    """Whether a value is one picture that :func:`load_radiograph` takes, and not several.

    A list of paths is several, in an array or a table's column too.
    """
    kinds = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Radiograph
    if isinstance(value, kinds) or hasattr(value, "read"):
        return True
    return hasattr(value, "__array__") and getattr(value, "ndim", 0) >= 2


def _as_asked(radiograph: Radiograph, rendering: Rendering) -> Radiograph:
    if radiograph.rendering == rendering:
        return radiograph
    raise ImageError(
        f"the radiograph was rendered with '{radiograph.rendering}', '{rendering}' is needed",
        remedy=f"Read its file with load_radiograph(..., rendering='{rendering}')",
        kind="other_rendering",
    )


def _read_array(array: NDArray[Any], rendering: Rendering, label: str) -> Radiograph:
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
        image = Image.fromarray(array)
        return read_image(image, rendering=rendering, frame=None, source=label)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ImageError(
            f"an array of {array.dtype} with the shape {list(array.shape)} is no picture",
            remedy="Give numbers [height, width], or uint8 [height, width, 3]",
            kind="wrong_shape",
        )
    check_size(*array.shape)
    bits = 1 if array.dtype.kind == "b" else 8 * array.dtype.itemsize
    facts = {"file_format": "memory", "mode": str(array.dtype), "lossy": False}
    gray = np.ascontiguousarray(array)
    return rendered(gray, bits, Notes(facts), inverted=False, rendering=rendering, source=label)


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
    named = getattr(source, "source", "") or getattr(source, "filename", "")
    named = named or getattr(source, "name", "")
    return named if isinstance(named, str) and named else f"<{type(source).__name__}>"


def content_of(source: Any) -> bytes:
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


def _read_all(source: Any) -> bytes:
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
            "this is neither a path, nor bytes, nor a binary file object, nor a picture",
            remedy='Open files with mode "rb", or give an array or a picture of Pillow',
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
