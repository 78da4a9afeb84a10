"""Whether a compressed stream is whole, which decoders leave unsaid.

libjpeg fills what is missing with gray, OpenJPEG with whatever it has, and a PNG decoder stops at
the last row without looking at checksums. These walks over the structure find a cut or damaged
stream before it becomes half a picture. They read no pixels and take milliseconds.
"""

import re
import struct
import zlib
from collections.abc import Sequence

from llava_rad.errors import ImageError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_J2K_START = b"\xff\x4f\xff\x51"
# In entropy-coded data FF is followed by 00 (JPEG) or by a byte under 80 (JPEG-LS); D0 to D7 are
# restart markers inside the data.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER_AFTER_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_FRAME_MARKERS = {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
_LS_FRAME = 0xF7


def _truncated() -> ImageError:
    return ImageError(
        "the compressed picture ends before its end marker, the file is cut off",
        remedy="Copy or download the file again",
        kind="truncated_image",
    )


def _broken(what: str) -> ImageError:
    return ImageError(what, remedy="Copy or export the file again", kind="broken_image")


def jpeg_size(stream: bytes) -> tuple[int, int]:
    """Check a JPEG or JPEG-LS stream up to its end marker and return its rows and columns.

    Raises:
        ImageError: ``truncated_image`` without an end marker, ``broken_image`` without a frame.
    """
    position, size, lossless = 2, None, False
    while True:
        marker = stream[position : position + 2]
        if len(marker) < 2:
            raise _truncated()
        if marker[0] != 0xFF:
            raise _broken("the JPEG stream is damaged")
        code = marker[1]
        if code == 0xFF:  # fill byte
            position += 1
            continue
        if code == 0xD9:
            if size is None:
                raise _broken("the JPEG stream holds no picture")
            return size
        if code in (0x01, *range(0xD0, 0xD9)):
            position += 2
            continue
        header = stream[position + 2 : position + 9]
        if len(header) < 7:
            raise _truncated()
        length, _, rows, columns = struct.unpack(">HBHH", header)
        if code in _FRAME_MARKERS or code == _LS_FRAME:
            size, lossless = (rows, columns), code == _LS_FRAME
        position += 2 + length
        if code == 0xDA:
            pattern = _MARKER_AFTER_LS_SCAN if lossless else _MARKER_AFTER_SCAN
            found = pattern.search(stream, position)
            if found is None:
                raise _truncated()
            position = found.start()


def jpeg2000_size(stream: bytes) -> tuple[int, int]:
    """Check a JPEG 2000 stream, boxed or bare, tile by tile and return its rows and columns.

    Raises:
        ImageError: ``truncated_image`` if a tile reaches over the end, ``broken_image`` if there
            is no code stream.
    """
    start = stream.find(_J2K_START)
    if start < 0:
        raise _broken("there is no JPEG 2000 code stream")
    # SIZ (ISO 15444-1 A.5.1): marker, Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz.
    if len(stream) < start + 24:
        raise _truncated()
    right, lower, left, upper = struct.unpack_from(">4I", stream, start + 8)
    size = (lower - upper, right - left)
    position = start + 2
    while True:
        if stream[position : position + 2] == b"\xff\xd9":
            return size
        if position <= len(stream) and not stream[position:].strip(b"\0"):
            return size  # whole, but for its end marker
        if position + 12 > len(stream):
            raise _truncated()
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker < 0xFF00:
            raise _broken("the JPEG 2000 stream is damaged")
        if marker != 0xFF90:
            position += 2 + length
            continue
        # A tile part: marker, Lsot, Isot, Psot (ISO 15444-1 A.4.2).
        (part,) = struct.unpack_from(">I", stream, position + 6)
        if part == 0:  # the last one reaches up to the end marker
            if stream.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
                return size
            raise _truncated()
        if part < 14:
            raise _broken("the JPEG 2000 stream is damaged")
        position += part


def check_png(stream: bytes) -> None:
    """Check that a PNG file has its end chunk and that its critical chunks are undamaged.

    Raises:
        ImageError: ``truncated_image`` or ``broken_image``.
    """
    position = len(_PNG_START)
    view = memoryview(stream)
    while True:
        if position + 12 > len(stream):
            raise _truncated()
        length, name = struct.unpack_from(">I4s", stream, position)
        end = position + 12 + length
        if end > len(stream):
            raise _truncated()
        (stored,) = struct.unpack_from(">I", stream, end - 4)
        # Chunks with a lower-case first letter are not needed for the picture.
        if name[:1].isupper() and zlib.crc32(view[position + 4 : end - 4]) != stored:
            raise _broken(f"the checksum of PNG chunk {name.decode('latin-1')} is wrong")
        if name == b"IEND":
            return
        position = end


def check_tiff_start(stream: bytes) -> None:
    """Check that the first directory of a TIFF file lies within the file.

    Raises:
        ImageError: ``truncated_image``.
    """
    order = "<" if stream.startswith(b"II") else ">"
    if len(stream) < 16:
        raise _truncated()
    (version,) = struct.unpack_from(f"{order}H", stream, 2)
    (place,) = struct.unpack_from(f"{order}I", stream, 4)
    if version == 43:  # BigTIFF
        (place,) = struct.unpack_from(f"{order}Q", stream, 8)
    if place + 2 > len(stream):
        raise _truncated()


def check_tiff_parts(offsets: Sequence[int], lengths: Sequence[int], size: int) -> None:
    """Check that every strip or tile of a TIFF file of ``size`` bytes lies within the file.

    Raises:
        ImageError: ``truncated_image``.
    """
    for offset, length in zip(offsets, lengths, strict=False):
        if offset + length > size:
            raise _truncated()
