"""Streams that no library here writes, and ways to damage them."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_CATEGORY_BITS = 5  # a code for each of the 17 categories of differences
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


class _Writer:
    """Bits of entropy-coded JPEG data."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, value: int, width: int) -> None:
        if width:
            self._bits.append(format(value, f"0{width}b"))

    def difference(self, value: int, width: int = _CATEGORY_BITS) -> None:
        """Write a category's number as its code, then the bits of the difference (T.81 F.1.2.1)."""
        size = abs(value).bit_length()
        self.put(size, width)
        if 0 < size < 16:
            self.put(value if value > 0 else value + (1 << size) - 1, size)

    def flush(self) -> bytes:
        text = "".join(self._bits)
        text += "1" * (-len(text) % 8)
        self._bits = []
        return int(text or "0", 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def _segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def _table(number: int, codes: int, width: int, symbols: bytes) -> bytes:
    counts = bytearray(16)
    counts[width - 1] = codes
    return _segment(0xC4, bytes([number]) + bytes(counts) + symbols)


def lossless_jpeg(pixels: NDArray[np.uint16], restart_rows: int = 0, padding: bytes = b"") -> bytes:
    """Write JPEG Lossless, first predictor (T.81 H), with a restart marker after so many rows."""
    rows, columns = pixels.shape
    values = pixels.astype(np.int64).tolist()
    writer, data = _Writer(), []
    for y in range(rows):
        first = y == 0 or (restart_rows and y % restart_rows == 0)
        if first and y:
            data += [writer.flush(), bytes([0xFF, 0xD0 + (y // restart_rows - 1) % 8])]
        for x in range(columns):
            if x:
                predicted = values[y][x - 1]
            else:
                predicted = 1 << 15 if first else values[y - 1][0]
            step = (values[y][x] - predicted) & 0xFFFF
            writer.difference(step - 65536 if step > 32768 else step)
    data.append(writer.flush())
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB", 16, rows, columns, 1) + b"\x01\x11\x00"),
            _table(0, 17, _CATEGORY_BITS, bytes(range(17))),
            _segment(0xDD, struct.pack(">H", restart_rows * columns)) if restart_rows else b"",
            _segment(0xDA, b"\x01\x01\x00\x01\x00\x00"),
            *data,
            padding,
            b"\xff\xd9",
        ]
    )


def twelve_bit_jpeg(levels: NDArray[np.int64]) -> bytes:
    """Write 12-bit sequential JPEG (SOF1) of even blocks of 8 x 8 pixels.

    Args:
        levels: [rows, columns] of blocks, 0 to 4095.
    """
    writer, before = _Writer(), 0
    for level in levels.ravel().tolist():
        # With quantisers of 1 the first coefficient is 8 times the level around 2048.
        value = 8 * (level - 2048)
        writer.difference(value - before)
        writer.put(0, 1)  # end of block
        before = value
    rows, columns = levels.shape
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xDB, b"\x00" + b"\x01" * 64),
            _segment(0xC1, struct.pack(">BHHB", 12, 8 * rows, 8 * columns, 1) + b"\x01\x11\x00"),
            _table(0x00, 16, _CATEGORY_BITS, bytes(range(16))),
            _table(0x10, 1, 1, b"\x00"),
            _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
            writer.flush(),
            b"\xff\xd9",
        ]
    )


def png(pixels: NDArray[np.generic], *, interlaced: bool = False, rows: int | None = None) -> bytes:
    """Write a gray PNG file; its data hold the first so many lines only."""
    lines = []
    for left, upper, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        part = pixels[upper::down, left::across]
        lines += [b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in part]
    return png_of(zlib.compress(b"".join(lines[:rows])), pixels, interlaced)


def png_of(data: bytes, pixels: NDArray[np.generic], interlaced: bool = False) -> bytes:
    """Write a gray PNG file of given compressed data, in two chunks, all checksums right."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows, columns = pixels.shape
    header = struct.pack(
        ">IIBBBBB", columns, rows, 8 * pixels.dtype.itemsize, 0, 0, 0, int(interlaced)
    )
    half = len(data) // 2
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data[:half])
        + chunk(b"IDAT", data[half:])
        + chunk(b"IEND", b"")
    )


def tiff(
    shape: tuple[int, int],
    parts: list[bytes],
    *,
    compression: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    bits: int = 8,
    tables: bytes = b"",
) -> bytes:
    """Write a gray TIFF file of strips, or of square tiles of a side."""
    rows, columns = shape
    offsets, position = [], 8
    for part in parts:
        offsets.append(position)
        position += len(part) + len(part) % 2
    entries: dict[int, tuple[int, list[int] | bytes]] = {
        256: (4, [columns]),
        257: (4, [rows]),
        258: (3, [bits]),
        259: (3, [compression]),
        262: (3, [1]),
        277: (3, [1]),
        (324 if tile else 273): (4, offsets),
        (325 if tile else 279): (4, [len(part) for part in parts]),
    }
    if tile:
        entries |= {322: (4, [tile]), 323: (4, [tile])}
    else:
        entries[278] = (4, [rows_per_strip or rows])
    if tables:
        entries[347] = (7, tables)
    extra, directory = b"", struct.pack("<H", len(entries))
    after = position + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        if isinstance(values, bytes):
            content = values
        else:
            content = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            place = struct.pack("<I", after + len(extra))
            extra += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(values)) + place
    body = b"".join(part + b"\0" * (len(part) % 2) for part in parts)
    return b"II*\0" + struct.pack("<I", position) + body + directory + bytes(4) + extra


def cut(stream: bytes, share: float, end: bytes = b"") -> bytes:
    """Keep a share of a stream and close it."""
    return stream[: int(share * len(stream))] + end


def without(stream: bytes, share: float, length: int) -> bytes:
    """Leave bytes out."""
    place = int(share * len(stream))
    return stream[:place] + stream[place + length :]


def zeroed(stream: bytes, share: float, length: int) -> bytes:
    """Overwrite bytes with zeros."""
    place = int(share * len(stream))
    return stream[:place] + bytes(length) + stream[place + length :]
