"""Whether a GIF file holds its whole first picture."""

import struct

from llava_rad.images.integrity import broken, cut_off, not_whole
from llava_rad.images.limits import check_size
from llava_rad.images.lzw import Lzw

_EXTENSION, _PICTURE, _TRAILER = 0x21, 0x2C, 0x3B
_MOST_BITS = 11  # of a literal; 8 are enough, but some writers say more


def check_gif(stream: bytes) -> None:
    """Check a GIF file's blocks up to its trailer and count the pixels of every picture.

    Raises:
        ImageError: ``truncated_image`` for a file that is cut or whose data are too few, too many
            or damaged, ``broken_image`` for one without a picture, ``too_large``.
    """
    try:
        flags = stream[10]
        position, pictures = 13 + _table_size(flags), 0
        # A missing trailer or padding between blocks costs no pixel.
        while position < len(stream) and stream[position] != _TRAILER:
            kind = stream[position]
            if kind == _EXTENSION:
                _, position = _blocks(stream, position + 2)
            elif kind == _PICTURE:
                columns, rows, flags = struct.unpack_from("<HHB", stream, position + 5)
                position += 10 + _table_size(flags)
                bits = stream[position]
                data, position = _blocks(stream, position + 1)
                _check_picture(data, bits, rows, columns)
                pictures += 1
            elif kind == 0:
                position += 1
            else:
                raise not_whole("something else stands where a GIF block should")
    except (IndexError, struct.error) as error:
        raise cut_off() from error
    if not pictures:
        raise broken("the GIF file holds no picture")


def _table_size(flags: int) -> int:
    """Return the bytes of a color table, 0 if there is none."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(stream: bytes, position: int) -> tuple[bytes, int]:
    """Return what a chain of blocks holds, and where it ends."""
    parts = []
    while stream[position]:
        length = stream[position]
        parts.append(stream[position + 1 : position + 1 + length])
        position += 1 + length
    return b"".join(parts), position + 1


def _check_picture(data: bytes, bits: int, rows: int, columns: int) -> None:
    check_size(rows, columns, smallest=1)
    if not 1 <= bits <= _MOST_BITS:
        raise not_whole("the GIF data begin with codes of no possible length")
    Lzw(bits, high_first=False, early=False).check(data, rows * columns)
