"""Whether a PNG file holds all of its rows, undamaged."""

import struct
import zlib
from collections.abc import Iterator

from llava_rad.images.integrity import broken, check_zlib, cut_off
from llava_rad.images.limits import check_size

_START = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
# Column and row of the first pixel, and steps, of each pass of an interlaced picture.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def check_png(stream: bytes) -> None:
    """Check a PNG file's chunks and that its data inflate to all rows, of every pass.

    Raises:
        ImageError: ``truncated_image`` for a file that is cut or whose data are too few or
            damaged, ``broken_image`` for a wrong checksum of a chunk, ``too_large``.
    """
    header, data = None, []
    for name, content in _chunks(stream):
        if name == b"IHDR" and header is None:
            header = content
        elif name == b"IDAT":
            data.append(content)
    if header is None or len(header) != 13 or not data:
        raise broken("the PNG file holds no picture")
    columns, rows, bits, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    check_size(rows, columns, smallest=1)
    if color not in _SAMPLES or bits not in (1, 2, 4, 8, 16):
        raise broken("the header of the PNG file makes no sense")
    lines = _lines(rows, columns, bits * _SAMPLES[color], interlace)
    check_zlib(data, sum(count * length for count, length in lines))


def _chunks(stream: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and content of the chunks that make the picture, checked, to the end chunk."""
    position, view = len(_START), memoryview(stream)
    while True:
        if position + 12 > len(stream):
            raise cut_off()
        length, name = struct.unpack_from(">I4s", stream, position)
        end = position + 12 + length
        if end > len(stream):
            raise cut_off()
        (stored,) = struct.unpack_from(">I", stream, end - 4)
        # Chunks with a lower-case first letter are not needed for the picture.
        if name[:1].isupper():
            if zlib.crc32(view[position + 4 : end - 4]) != stored:
                raise broken(f"the checksum of PNG chunk {name.decode('latin-1')} is wrong")
            yield name, view[position + 8 : end - 4]
        if name == b"IEND":
            return
        position = end


def _lines(rows: int, columns: int, bits: int, interlace: int) -> list[tuple[int, int]]:
    """Return for each pass how many lines it has and their bytes, the filter's with them."""
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    lines = []
    for left, upper, across, down in passes:
        width, height = -(-(columns - left) // across), -(-(rows - upper) // down)
        if width > 0 and height > 0:
            lines.append((height, 1 + -(-width * bits // 8)))
    return lines
