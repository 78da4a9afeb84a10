"""Whether a JPEG 2000 stream holds all of its tiles, and every tile all of its packets.

Numbers in brackets are sections of ISO/IEC 15444-1.
"""

import struct
from dataclasses import dataclass, field

from llava_rad.images.integrity import broken, cut_off, not_whole
from llava_rad.images.jpeg2000_packets import Box, Coding, Order, Patience, Tile, check_packets
from llava_rad.images.limits import check_size

_START = b"\xff\x4f\xff\x51"
_COD, _COC, _POC, _PPM, _PPT = 0xFF52, 0xFF53, 0xFF5F, 0xFF60, 0xFF61
_SOT = 0xFF90
_MOST_LEVELS = 32


def check_jpeg2000(stream: bytes) -> tuple[int, int]:
    """Check a JPEG 2000 stream, boxed or bare, and return its rows and columns.

    All tiles must be there with all of their parts, and in each the headers of all packets must
    lead exactly to its end. What the packets carry is not decoded: its codes are all valid.

    Raises:
        ImageError: ``truncated_image`` for a stream that is cut, damaged or incomplete,
            ``broken_image`` if there is no code stream, ``too_large``.
    """
    start = stream.find(_START)
    if start < 0:
        raise broken("there is no JPEG 2000 code stream")
    try:
        header, position = _main_header(stream, start + 2)
        check_size(header.rows, header.columns, smallest=1)
        tiles = _tile_parts(stream, position, header)
        patience = Patience()
        for number in range(header.tiles):
            part = tiles.get(number)
            if part is None or len(part.seen) < part.parts:
                raise not_whole(_missing(tiles, header))
            _check_tile(header, number, part, patience)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise not_whole("a JPEG 2000 marker segment makes no sense") from error
    return header.rows, header.columns


@dataclass
class _Coding:
    """What COD, COC and POC say (A.6.1, A.6.2, A.6.6); a tile's own replaces the picture's."""

    progression: int = 0
    layers: int = 0
    default: Coding | None = None
    components: dict[int, Coding] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)

    def read(self, marker: int, content: bytes, count: int) -> None:
        """Read a marker segment, given the number of components in the picture."""
        wide = count > 256  # component numbers have two bytes
        if marker == _COD:
            style, self.progression, self.layers, _ = struct.unpack_from(">BBHB", content)
            self.default = _coding(style, content[5:])
        elif marker == _COC:
            (component,) = struct.unpack_from(">H" if wide else ">B", content)
            rest = content[2:] if wide else content[1:]
            self.components[component] = _coding(rest[0], rest[1:])
        elif marker == _POC:
            layout = ">BHHBHB" if wide else ">BBHBBB"
            for fields in struct.iter_unpack(layout, content):
                first, component, layers, end, last, progression = fields
                last = last or (16384 if wide else 256)
                self.orders.append(Order(progression, (first, end), (component, last), layers))


@dataclass
class _Header:
    """The main header: the reference grid (A.5.1) and the coding."""

    box: Box
    tile: Box  # the first tile; its right and lower edges are excluded
    steps: list[tuple[int, int]]
    coding: _Coding = field(default_factory=_Coding)
    # Of packets, for each tile part in order, where the main header holds them.
    packed: list[bytes] | None = None

    @property
    def rows(self) -> int:
        return self.box[3] - self.box[1]

    @property
    def columns(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def across(self) -> int:
        return -(-(self.box[2] - self.tile[0]) // (self.tile[2] - self.tile[0]))

    @property
    def tiles(self) -> int:
        return self.across * -(-(self.box[3] - self.tile[1]) // (self.tile[3] - self.tile[1]))

    def tile_box(self, number: int) -> Box:
        """Return the place of a tile (B.3)."""
        width, height = self.tile[2] - self.tile[0], self.tile[3] - self.tile[1]
        left = self.tile[0] + number % self.across * width
        upper = self.tile[1] + number // self.across * height
        return (
            max(left, self.box[0]),
            max(upper, self.box[1]),
            min(left + width, self.box[2]),
            min(upper + height, self.box[3]),
        )


@dataclass
class _TileParts:
    """A tile's parts, joined."""

    coding: _Coding = field(default_factory=_Coding)
    parts: int = 1
    seen: set[int] = field(default_factory=set)
    data: list[bytes] = field(default_factory=list)
    packed: dict[int, bytes] = field(default_factory=dict)
    from_main: list[bytes] = field(default_factory=list)


def _coding(style: int, content: bytes) -> Coding:
    levels, width, height, blocks = content[:4]
    if levels > _MOST_LEVELS or width > 8 or height > 8:
        raise ValueError
    precincts = ((15, 15),) * (levels + 1)
    if style & 1:
        precincts = tuple((size & 15, size >> 4) for size in content[5 : 6 + levels])
    if len(precincts) <= levels:
        raise ValueError
    return Coding(levels, (width + 2, height + 2), blocks, precincts)


def _segment(stream: bytes, position: int) -> tuple[int, bytes, int]:
    """Return a marker, what its segment holds, and where the next one begins."""
    if position + 4 > len(stream):
        raise cut_off()
    marker, length = struct.unpack_from(">HH", stream, position)
    end = position + 2 + length
    if marker < 0xFF00 or length < 2:
        raise not_whole("something else stands where a JPEG 2000 marker should")
    if end > len(stream):
        raise cut_off()
    return marker, stream[position + 4 : end], end


def _main_header(stream: bytes, position: int) -> tuple[_Header, int]:
    """Return the main header and where the first tile part begins."""
    _, content, position = _segment(stream, position)
    _, right, lower, left, upper, width, height, x, y, count = struct.unpack_from(">H8IH", content)
    steps = [(content[37 + 3 * n], content[38 + 3 * n]) for n in range(count)]
    if min(right - left, lower - upper) < 1:
        raise broken(f"the picture has {lower - upper} rows and {right - left} columns")
    if min(width, height, *(min(step) for step in steps)) < 1 or x > left or y > upper:
        raise ValueError
    header = _Header((left, upper, right, lower), (x, y, x + width, y + height), steps)
    packed: dict[int, bytes] = {}
    while not stream.startswith(b"\xff\x90", position):
        marker, content, position = _segment(stream, position)
        if marker == _PPM:
            packed[content[0]] = content[1:]
        else:
            header.coding.read(marker, content, count)
    if packed:
        header.packed = []
        joined, place = b"".join(packed[number] for number in sorted(packed)), 0
        while place < len(joined):
            (length,) = struct.unpack_from(">I", joined, place)
            header.packed.append(joined[place + 4 : place + 4 + length])
            place += 4 + length
    return header, position


def _tile_parts(stream: bytes, position: int, header: _Header) -> dict[int, _TileParts]:
    """Read all tile parts (A.4.2) up to the end marker."""
    tiles: dict[int, _TileParts] = {}
    count = 0
    while True:
        if stream.startswith(b"\xff\xd9", position):
            return tiles
        if position <= len(stream) and not stream[position:].strip(b"\0"):
            return tiles  # whole, perhaps, but for the end marker
        if position + 12 > len(stream):
            raise cut_off()
        marker, _, number, length, part, parts = struct.unpack_from(">HHHIBB", stream, position)
        if marker != _SOT or number >= header.tiles:
            raise not_whole("something else stands where a JPEG 2000 tile should")
        end = position + length
        if length == 0:  # the last one reaches up to the end marker
            end = stream.rfind(b"\xff\xd9", position)
        if not position < end <= len(stream):
            raise cut_off()
        tile = tiles.setdefault(number, _TileParts())
        tile.parts = max(tile.parts, parts)
        tile.seen.add(part)
        position += 12
        while not stream.startswith(b"\xff\x93", position):
            marker, content, position = _segment(stream, position)
            if marker == _PPT:
                tile.packed[content[0]] = content[1:]
            else:
                tile.coding.read(marker, content, len(header.steps))
        tile.data.append(stream[position + 2 : end])
        if header.packed is not None:
            tile.from_main.append(header.packed[count])
        count, position = count + 1, end


def _missing(tiles: dict[int, _TileParts], header: _Header) -> str:
    whole = sum(len(part.seen) >= part.parts for part in tiles.values())
    return f"{whole} of {header.tiles} JPEG 2000 tiles are there"


def _check_tile(header: _Header, number: int, part: _TileParts, patience: Patience) -> None:
    """Check a tile's packets."""
    main, own = header.coding, part.coding
    general = own if own.default else main
    codings = []
    for component in range(len(header.steps)):
        coding = (
            own.components.get(component)
            or own.default
            or main.components.get(component)
            or main.default
        )
        if coding is None or general.layers < 1:
            raise ValueError
        codings.append((*header.steps[component], coding))
    everything = Order(
        general.progression, (0, _MOST_LEVELS + 1), (0, len(codings)), general.layers
    )
    orders = own.orders or main.orders or [everything]
    tile = Tile(header.tile_box(number), tuple(codings), general.layers, tuple(orders))
    headers = None
    if part.packed:
        headers = b"".join(part.packed[index] for index in sorted(part.packed))
    elif header.packed is not None:
        headers = b"".join(part.from_main)
    check_packets(tile, headers, b"".join(part.data), patience)
