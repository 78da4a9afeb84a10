"""Whether a TIFF file holds all of its strips or tiles, whole."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_rad.errors import ImageError
from llava_rad.images.integrity import broken, check_zlib, cut_off, not_whole
from llava_rad.images.jpeg_stream import check_jpeg
from llava_rad.images.lzw import Lzw
from llava_rad.images.run_lengths import check_packbits

# Tags of TIFF 6.0 and of its technical note on JPEG.
_COLUMNS, _ROWS, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_LENGTHS, _PLANAR = 273, 277, 278, 279, 284
_TILE_COLUMNS, _TILE_ROWS, _TILE_OFFSETS, _TILE_LENGTHS = 322, 323, 324, 325
_JPEG_TABLES, _SUBSAMPLING = 347, 530
_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS = 1, 5, 7, (8, 32946), 32773
_YCBCR = 6
_TIFF_LZW = Lzw(8, high_first=True, early=True)


def check_tiff_start(stream: bytes) -> None:
    """Check that the first directory of a TIFF file lies within the file.

    Raises:
        ImageError: ``truncated_image``.
    """
    order = "<" if stream.startswith(b"II") else ">"
    if len(stream) < 16:
        raise cut_off()
    (version,) = struct.unpack_from(f"{order}H", stream, 2)
    (place,) = struct.unpack_from(f"{order}I", stream, 4)
    if version == 43:  # BigTIFF
        (place,) = struct.unpack_from(f"{order}Q", stream, 8)
    if place + 2 > len(stream):
        raise cut_off()


def check_tiff(stream: bytes, tags: Mapping[int, Any]) -> None:
    """Check that all strips or tiles of the first picture are there, whole.

    Data in other compressions than LZW, deflate, PackBits and JPEG are only checked to lie within
    the file.

    Args:
        stream: the file.
        tags: of its first directory, as Pillow gives them.

    Raises:
        ImageError: ``truncated_image`` or ``broken_image``.
    """
    try:
        layout = _layout(tags)
        offsets, lengths = _places(tags, layout)
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise broken("the directory of the TIFF file makes no sense") from error
    if len(offsets) < layout.count:
        raise not_whole(f"{len(offsets)} of {layout.count} strips or tiles are there")
    compression = tags.get(_COMPRESSION, _NONE)
    view, tables = memoryview(stream), bytes(tags.get(_JPEG_TABLES, b""))
    for number, offset in enumerate(offsets[: layout.count]):
        rows = layout.rows_of(number)
        if number < len(lengths):
            length = lengths[number]
        else:  # no length is stated for uncompressed data, and sometimes for a single strip
            length = 0 if compression == _NONE else len(stream) - offset
        if compression == _NONE:
            length = max(length, layout.size(rows))
        if offset <= 0 or length <= 0 or offset + length > len(stream):
            raise cut_off()
        data = view[offset : offset + length]
        if compression == _JPEG:
            _check_jpeg_part(data, tables, rows, layout.columns)
        elif tags.get(_FILL_ORDER, 1) == 1:
            try:
                _check_part(data, compression, layout.size(rows))
            except ImageError:
                if rows == layout.each:
                    raise
                # Some writers fill the last strip up.
                _check_part(data, compression, layout.size(layout.each))


@dataclass(frozen=True)
class _Layout:
    """How a picture is cut into strips or tiles.

    Attributes:
        rows: of the picture.
        columns: of a strip or tile.
        each: rows of a strip or tile.
        across: tiles beside each other.
        planes: 1, or one for each sample.
        tiled: whether the last part has all its rows too.
        row_bits: bits in a group of rows.
        group: rows in a group; more than one where color is subsampled.
    """

    rows: int
    columns: int
    each: int
    across: int
    planes: int
    tiled: bool
    row_bits: int
    group: int

    @property
    def count(self) -> int:
        return -(-self.rows // self.each) * self.across * self.planes

    def rows_of(self, number: int) -> int:
        if self.tiled:
            return self.each
        first = number % (self.count // self.planes) * self.each
        return min(self.each, self.rows - first)

    def size(self, rows: int) -> int:
        """Return the bytes of so many rows."""
        return -(-rows // self.group) * -(-self.row_bits // 8)


def _layout(tags: Mapping[int, Any]) -> _Layout:
    rows, columns = int(tags[_ROWS]), int(tags[_COLUMNS])
    samples = int(tags.get(_SAMPLES, 1))
    planes = samples if tags.get(_PLANAR, 1) == 2 else 1
    bits = int(tags.get(_BITS, (1,))[0])
    across, each, tiled = 1, min(int(tags.get(_ROWS_PER_STRIP, rows)), rows), _TILE_ROWS in tags
    if tiled:
        each = int(tags[_TILE_ROWS])
        across = -(-columns // int(tags[_TILE_COLUMNS]))
        columns = int(tags[_TILE_COLUMNS])
    row_bits, group = columns * bits * (samples // planes), 1
    if tags.get(_PHOTOMETRIC) == _YCBCR and planes == 1 and tags.get(_COMPRESSION) != _JPEG:
        wide, group = (int(value) for value in tags.get(_SUBSAMPLING, (2, 2)))
        row_bits = -(-columns // wide) * (wide * group + 2) * bits
    if min(rows, columns, each, samples, bits, group) < 1:
        raise ValueError
    return _Layout(rows, columns, each, across, planes, tiled, row_bits, group)


def _places(tags: Mapping[int, Any], layout: _Layout) -> tuple[list[int], list[int]]:
    """Return where the strips or tiles begin, and their lengths as far as they are stated."""
    offsets, lengths = tags.get(_TILE_OFFSETS), tags.get(_TILE_LENGTHS)
    if not layout.tiled or offsets is None:  # some writers use the tags of strips for tiles
        offsets, lengths = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_LENGTHS)
    return [int(value) for value in offsets], [int(value) for value in lengths or ()]


def _check_part(data: memoryview, compression: int, size: int) -> None:
    if compression in _DEFLATE:
        check_zlib([data], size)
    elif compression == _PACKBITS:
        check_packbits(data, size)
    elif compression == _LZW and not (data[0] == 0 and data[1:2] == b"\1"):
        # The variant from before TIFF 6.0, which fills bytes from the low end, is left to libtiff.
        _TIFF_LZW.check(data, size)


def _check_jpeg_part(data: memoryview, tables: bytes, rows: int, columns: int) -> None:
    """Check one strip or tile; ``tables`` is a JPEG stream with those that all have in common."""
    stream = bytes(data)
    if stream[:2] != b"\xff\xd8":
        raise not_whole("a JPEG strip or tile has no beginning")
    if tables[:2] == b"\xff\xd8":
        stream = tables.removesuffix(b"\xff\xd9") + stream[2:]
    height, width = check_jpeg(stream)
    if height < rows or width < columns:
        raise not_whole(f"a JPEG strip or tile has {height} x {width} of {rows} x {columns} pixels")
