"""Whether a JPEG or JPEG-LS stream holds its whole picture.

Three questions, in this order: do the markers lead to the end marker; does every component reach
full precision (a progressive picture may stop after any scan and still close in order); and do
the entropy-coded data hold as many blocks as the frame has. libjpeg-turbo answers the last one for
8-bit pictures when its warnings count as errors; ``jpeg_entropy`` answers it for the others.
"""

import re
import struct
from dataclasses import dataclass, field

import simplejpeg

from llava_rad.images.integrity import broken, cut_off, not_whole
from llava_rad.images.jpeg_entropy import Component, Scan, Table, check_scan
from llava_rad.images.limits import check_size

# In entropy-coded data FF is followed by 00 (JPEG) or by a byte under 80 (JPEG-LS); D0 to D7 are
# restart markers inside the data.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER_AFTER_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_FRAMES = {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7}
_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS = (0xC0, 0xC1), 0xC2, 0xC3
_ARITHMETIC = range(0xC9, 0xD0)
_LS = 0xF7
# What TurboJPEG says of kinds that it does not take, though other decoders may.
_UNABLE = re.compile("subsampling|unsupported|implemented|maximum|too many|argument", re.IGNORECASE)
_TABLES, _RESTART_INTERVAL, _SCAN, _END = (0xC4, 0xDB), 0xDD, 0xDA, 0xD9
# As libjpeg-turbo's own limit against pictures made to take for ever. Files have 10 or so.
_MAX_SCANS = 500


@dataclass
class _Jpeg:
    """What the markers of a stream say."""

    process: int = 0  # the frame's marker code
    precision: int = 0
    rows: int = 0
    columns: int = 0
    components: list[Component] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)
    # The stream without what decoding does not need: comments, previews, stray bytes at the end.
    pieces: list[bytes | memoryview | Scan] = field(default_factory=lambda: [b"\xff\xd8"])


def check_jpeg(stream: bytes) -> tuple[int, int]:
    """Check that a JPEG or JPEG-LS stream is whole and return its rows and columns.

    JPEG-LS data are followed to the end marker only; CharLS, which decodes them, refuses data
    that are too few or too many.

    Raises:
        ImageError: ``truncated_image`` for a stream that is cut, damaged or incomplete,
            ``broken_image`` for one without a picture, ``too_large``.
    """
    jpeg = _read_markers(stream)
    check_size(jpeg.rows, jpeg.columns, smallest=1)
    if jpeg.process != _LS:
        _check_precision(jpeg)
    if jpeg.process not in _ARITHMETIC:
        _check_least_bits(jpeg)
    if jpeg.process in (*_SEQUENTIAL, _PROGRESSIVE) and jpeg.precision == 8:
        _check_with_libjpeg(jpeg)
    elif jpeg.process in (*_SEQUENTIAL, _LOSSLESS):
        _check_scans(jpeg)
    return jpeg.rows, jpeg.columns


def _read_markers(stream: bytes) -> _Jpeg:
    jpeg, view = _Jpeg(), memoryview(stream)
    tables: dict[int, Table] = {}
    position, interval = 2, 0
    while True:
        marker = stream[position : position + 2]
        if len(marker) < 2:
            raise cut_off()
        code = marker[1]
        if marker[0] != 0xFF or code in (0, 0xFF):  # stray or fill bytes between segments
            found = _MARKER.search(stream, position)
            if found is None:
                raise cut_off()
            position = found.start()
            continue
        if code == _END:
            if not jpeg.process:
                raise broken("the JPEG stream holds no picture")
            jpeg.pieces.append(b"\xff\xd9")
            return jpeg
        if code in (0x01, *range(0xD0, 0xD9)):
            position += 2
            continue
        (length,) = struct.unpack(">H", stream[position + 2 : position + 4].rjust(2, b"\0"))
        segment = view[position : position + 2 + length]
        content = bytes(segment[4:])
        if length < 2 or len(segment) < 2 + length:
            raise cut_off()
        position += 2 + length
        try:
            if code in _FRAMES:
                _read_frame(jpeg, code, content)
            elif code == 0xC4:
                _read_tables(tables, content)
            elif code == _RESTART_INTERVAL:
                (interval,) = struct.unpack_from(">H", content)
            elif code == _SCAN:
                pattern = _MARKER_AFTER_LS_SCAN if jpeg.process == _LS else _MARKER_AFTER_SCAN
                found = pattern.search(stream, position)
                if found is None:
                    raise cut_off()
                data = view[position : found.start()]
                _read_scan(jpeg, content, data, tables, interval)
                position = found.start()
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise not_whole("a JPEG marker segment makes no sense") from error
        if code in (*_TABLES, *_FRAMES, _RESTART_INTERVAL):
            jpeg.pieces.append(segment)
        elif code == _SCAN:
            # In a sequential frame the last bytes of a scan's header mean nothing and may be odd.
            plain = bytes(segment[:-3]) + b"\0\x3f\0"
            jpeg.pieces += [plain if jpeg.process in _SEQUENTIAL else segment, jpeg.scans[-1]]


def _read_frame(jpeg: _Jpeg, code: int, content: bytes) -> None:
    if jpeg.process:
        raise not_whole("the JPEG stream begins a second picture before its end")
    jpeg.process = code
    jpeg.precision, jpeg.rows, jpeg.columns, count = struct.unpack_from(">BHHB", content)
    for number in range(count):
        identity, sampling, _ = content[6 + 3 * number : 9 + 3 * number]
        across, down = sampling >> 4, sampling & 15
        if not (1 <= across <= 4 and 1 <= down <= 4):
            raise IndexError
        jpeg.components.append(Component(identity, across, down))


def _read_tables(tables: dict[int, Table], content: bytes) -> None:
    """Add the Huffman tables of a DHT segment, under class and number as the segment has them."""
    position = 0
    while position < len(content):
        counts = content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        if len(counts) < 16 or len(symbols) < sum(counts):
            raise IndexError
        tables[content[position]] = Table(counts, symbols)
        position += 17 + len(symbols)


def _read_scan(
    jpeg: _Jpeg, content: bytes, data: memoryview, tables: dict[int, Table], interval: int
) -> None:
    """Note a scan, given its header, its data up to the next marker, and what is in force."""
    by_identity = {component.identity: component for component in jpeg.components}
    count = content[0]
    members, used = [], []
    for number in range(count):
        identity, chosen = content[1 + 2 * number : 3 + 2 * number]
        members.append(by_identity[identity])
        used.append((tables.get(chosen >> 4), tables.get(0x10 | (chosen & 15))))
    first, last, bits = content[1 + 2 * count : 4 + 2 * count]
    if jpeg.process in _SEQUENTIAL:
        first, last, bits = 0, 63, 0
    jpeg.scans.append(Scan(tuple(members), tuple(used), first, last, bits & 15, interval, data))
    if len(jpeg.scans) > _MAX_SCANS:
        raise not_whole(f"the JPEG stream has more than {_MAX_SCANS} scans")


def _check_precision(jpeg: _Jpeg) -> None:
    """Check that the scans bring every coefficient of every component down to its last bit."""
    missing = {component.identity: set(range(64)) for component in jpeg.components}
    for scan in jpeg.scans:
        for component in scan.components:
            if jpeg.process == _LOSSLESS:
                missing[component.identity].clear()
            elif scan.low == 0:
                missing[component.identity] -= set(range(scan.first, scan.last + 1))
    if any(missing.values()):
        raise not_whole("scans of the JPEG stream are missing")


def _check_least_bits(jpeg: _Jpeg) -> None:
    """Check that there are as many bits as so large a picture takes at the very least."""
    # A Huffman code has at least one bit. A sequential block has two codes (DC, end of block), a
    # progressive one may have a single one, and a lossless sample has one. A bit of JPEG-LS data
    # stands for 32768 samples of a row at most. Blocks over the edges are left out: a valid picture
    # never fails.
    if jpeg.process == _LS:
        codes = jpeg.rows * -(-jpeg.columns // 32768)
    else:
        side = 1 if jpeg.process == _LOSSLESS else 8
        across = max(component.across for component in jpeg.components)
        down = max(component.down for component in jpeg.components)
        units = (jpeg.rows // (side * down)) * (jpeg.columns // (side * across))
        codes = units * sum(part.across * part.down for part in jpeg.components)
        codes *= 2 if jpeg.process in _SEQUENTIAL else 1
    held = sum(len(scan.data) for scan in jpeg.scans)
    if 8 * held < codes:
        raise not_whole(f"{held} bytes of data cannot hold {jpeg.rows} x {jpeg.columns} pixels")


def _check_scans(jpeg: _Jpeg) -> None:
    side = 1 if jpeg.process == _LOSSLESS else 8
    for scan in jpeg.scans:
        check_scan(scan, jpeg.rows, jpeg.columns, jpeg.components, side)


def _check_with_libjpeg(jpeg: _Jpeg) -> None:
    """Let libjpeg-turbo go through all data, at an eighth of the size, and heed its warnings."""
    complaint = _complaint(jpeg)
    if "extraneous bytes" in complaint:
        # Some devices pad the data with zeros. Other bytes left over mean that blocks were lost.
        for scan in jpeg.scans:
            scan.data = _without_padding(scan.data)
        complaint = _complaint(jpeg)
    if not _UNABLE.search(complaint):
        if complaint:
            raise not_whole(complaint)
    elif jpeg.process in _SEQUENTIAL:
        _check_scans(jpeg)


def _complaint(jpeg: _Jpeg) -> str:
    """Return libjpeg-turbo's first warning or error, empty for a picture in order."""
    pieces = [part.data if isinstance(part, Scan) else part for part in jpeg.pieces]
    space = "CMYK" if len(jpeg.components) == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(
            b"".join(pieces),
            space,
            fastdct=True,
            fastupsample=True,
            min_height=1,
            min_width=1,
            min_factor=8,
        )
    except ValueError as error:
        return str(error) or "unsupported"
    return ""


def _without_padding(data: memoryview) -> memoryview:
    length = len(bytes(data).rstrip(b"\0"))
    if length < len(data) and length and data[length - 1] == 0xFF:
        length += 1  # FF 00 is a byte of the picture
    return data[:length]
