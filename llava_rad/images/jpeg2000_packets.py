"""Following the packets of a JPEG 2000 tile through their headers to its end.

A packet holds what one layer adds to one precinct (a piece of one resolution of one component).
Its header says how many bytes follow for which code block, so a gap or an alteration almost
always leads to headers that do not fit. What follows is arithmetic code, in which every byte
means something: code blocks are read only if they hold what is rare. Numbers in brackets are
sections of ISO/IEC 15444-1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llava_rad.images.integrity import not_whole
from llava_rad.images.jpeg2000_blocks import reads_well

# Flags of the code block style (A.6.1); the last is that of high throughput (ISO/IEC 15444-15).
_BYPASS, _TERMINATED, _HIGH_THROUGHPUT = 1, 4, 64
_SOP, _EPH = b"\xff\x91\x00\x04", b"\xff\x92"
# In arithmetic code zeros in a row come from regular patterns alone, at most two bits for every
# four samples of a code block: all else adapts. FF is never followed by FF.
_ZEROS, _FULL = re.compile(rb"\0{12,}"), re.compile(rb"\xff{16,}")
_PATTERN, _SPARE = 16, 64  # samples to a byte; bytes more than those
_LEFT_OVER = 8  # bytes of padding after the last packet
_MOST_PLANES = 80
_MOST_PASSES = 109  # in a code word segment that nothing ends before

Box = tuple[int, int, int, int]  # left, upper, right, lower; the last two excluded


@dataclass(frozen=True)
class Coding:
    """How a component is coded (A.6.1).

    Attributes:
        levels: of decomposition.
        block: exponents of a code block's width and height.
        style: flags of the code block style.
        precincts: exponents of a precinct's width and height, for each resolution.
    """

    levels: int
    block: tuple[int, int]
    style: int
    precincts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Order:
    """A range of packets and their progression (A.6.6): 0 LRCP, 1 RLCP, 2 RPCL, 3 PCRL, 4 CPRL.

    The ends are excluded.
    """

    progression: int
    resolutions: tuple[int, int]
    components: tuple[int, int]
    layers: int


@dataclass(frozen=True)
class Tile:
    """A tile on the reference grid; its components as horizontal and vertical steps and coding."""

    box: Box
    components: tuple[tuple[int, int, Coding], ...]
    layers: int
    orders: tuple[Order, ...]


@dataclass
class Patience:
    """How much of one picture is looked at, so that none takes for ever.

    Attributes:
        blocks: code blocks in packet headers; 8192 x 8192 pixels have 22,000 a layer in blocks of
            64 x 64. Of pictures with more, the rest of the packets is not followed.
        read: code blocks that are read for what is odd in them.
    """

    blocks: int = 2**22
    read: int = 8


class _Bits:
    """Bits of packet headers: after a byte FF, the next one has seven (B.10.1)."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self._byte, self._left = 0, 0

    def bit(self) -> int:
        if not self._left:
            self._left = 7 if self._byte == 0xFF else 8
            self._byte = self.data[self.position]
            self.position += 1
        self._left -= 1
        return (self._byte >> self._left) & 1

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit()
        return value

    def finish(self) -> int:
        """Return where the header ends."""
        return self.position + (self._byte == 0xFF)


class _Tree:
    """A tag tree (B.10.2): the least value of every four nodes, told as far as it is needed."""

    def __init__(self, width: int, height: int) -> None:
        self._parents: list[int] = []
        first = 0
        while width * height > 1:
            wide, next_first = -(-width // 2), first + width * height
            for y in range(height):
                row = next_first + (y // 2) * wide
                self._parents += [row + x // 2 for x in range(width)]
            first, width, height = next_first, wide, -(-height // 2)
        self._parents.append(-1)
        self.least = [0] * len(self._parents)
        self._known = [False] * len(self._parents)

    def below(self, leaf: int, limit: int, bits: _Bits) -> bool:
        """Return whether a leaf's value is under the limit."""
        path, node = [], leaf
        while node >= 0:
            path.append(node)
            node = self._parents[node]
        least = 0
        for node in reversed(path):
            least = max(least, self.least[node])
            while least < limit and not self._known[node]:
                if bits.bit():
                    self._known[node] = True
                else:
                    least += 1
            self.least[node] = least
        return least < limit


class _Band:
    """The code blocks of one precinct in one subband.

    Args:
        number: 0 LL, 1 HL, 2 LH, 3 HH.
        box: of the precinct in the band.
        block: exponents of a code block's width and height.
    """

    def __init__(self, number: int, box: Box, block: tuple[int, int]) -> None:
        self.number = number
        self._box, self._block = box, block
        self._first = box[0] >> block[0], box[1] >> block[1]
        width = self._width = _up(box[2], 1 << block[0]) - self._first[0]
        height = _up(box[3], 1 << block[1]) - self._first[1]
        self.blocks = width * height
        self.inclusion, self.planes = _Tree(width, height), _Tree(width, height)
        self.any = False
        self.length_bits = [0] * self.blocks  # 0: not yet included
        self.passes = [0] * self.blocks
        # Where the pieces of a block are in the tile's data.
        self.spans: dict[int, list[tuple[int, int]]] = {}

    def size(self, block: int) -> tuple[int, int]:
        """Return the width and height of a code block."""
        sides = []
        for side, place in enumerate((block % self._width, block // self._width)):
            start = self._first[side] + place << self._block[side]
            end = min(start + (1 << self._block[side]), self._box[2 + side])
            sides.append(end - max(start, self._box[side]))
        return sides[0], sides[1]


_Piece = tuple[_Band, int, int]  # band, code block in it, bytes


class _Resolution:
    """One resolution of one tile component (B.5 to B.7) and the precincts seen so far."""

    def __init__(self, box: Box, step: tuple[int, int], coding: Coding, number: int) -> None:
        self.style, self.samples = coding.style, 1 << sum(coding.block)
        self._bands = _bands(box, step, coding.levels, number)
        # Of a precinct, on the resolution's own grid and on the reference grid.
        self._exponents = coding.precincts[number]
        self._halved = int(number > 0)
        self._steps = [step[i] << (self._exponents[i] + coding.levels - number) for i in (0, 1)]
        scale = [step[i] << (coding.levels - number) for i in (0, 1)]
        self._box = box
        left, upper, right, lower = (_up(edge, scale[i % 2]) for i, edge in enumerate(box))
        across, down = self._exponents
        self._first = left >> across, upper >> down
        self._aligned = left % (1 << across) == 0, upper % (1 << down) == 0
        self._wide = (_up(right, 1 << across) - self._first[0]) if right > left else 0
        high = (_up(lower, 1 << down) - self._first[1]) if lower > upper else 0
        self.count = self._wide * high
        self._block = coding.block
        self._precincts: dict[int, list[_Band]] = {}
        self.layers_seen: dict[int, int] = {}  # of each precinct

    def place(self, number: int) -> tuple[int, int]:
        """Return the row and column of the reference grid at which a precinct is due (B.12.1)."""
        x, y = number % self._wide, number // self._wide
        column = (self._first[0] + x) * self._steps[0] if x or self._aligned[0] else self._box[0]
        row = (self._first[1] + y) * self._steps[1] if y or self._aligned[1] else self._box[1]
        return row, column

    def precinct(self, number: int) -> list[_Band]:
        """Return the bands of a precinct that have code blocks in it."""
        if number not in self._precincts:
            x, y = self._first[0] + number % self._wide, self._first[1] + number // self._wide
            found = []
            across, down = (exponent - self._halved for exponent in self._exponents)
            block = min(self._block[0], across), min(self._block[1], down)
            for band, (left, upper, right, lower) in enumerate(self._bands, self._halved):
                left, right = max(left, x << across), min(right, (x + 1) << across)
                upper, lower = max(upper, y << down), min(lower, (y + 1) << down)
                if right > left and lower > upper:
                    found.append(_Band(band, (left, upper, right, lower), block))
            self._precincts[number] = found
        return self._precincts[number]


def _up(value: int, step: int) -> int:
    return -(-value // step)


def _bands(box: Box, step: tuple[int, int], levels: int, number: int) -> list[Box]:
    """Return the subbands of a resolution (B.5): LL of the lowest, else HL, LH and HH."""
    level = levels - number + (number > 0)
    bands: list[Box] = []
    for x, y in ((1, 0), (0, 1), (1, 1)) if number else ((0, 0),):
        shift = [(1 << level) // 2 * x, (1 << level) // 2 * y]
        left, upper, right, lower = (
            _up(_up(edge, step[i % 2]) - shift[i % 2], 1 << level) for i, edge in enumerate(box)
        )
        bands.append((left, upper, right, lower))
    return bands


def check_packets(tile: Tile, headers: bytes | None, data: bytes, patience: Patience) -> None:
    """Check that a tile's packets are all there and lead to the end of its data.

    Args:
        tile: its place and coding.
        headers: of the packets, where they are kept apart from the data, else None.
        data: of all its parts, joined.
        patience: what is left of it; used up.

    Raises:
        ImageError: ``truncated_image``.
    """
    resolutions = [
        [_Resolution(tile.box, (across, down), coding, n) for n in range(coding.levels + 1)]
        for across, down, coding in tile.components
    ]
    total = tile.layers * sum(level.count for levels in resolutions for level in levels)
    # The header of a packet, and so the packet, has at least one byte.
    if total > len(data if headers is None else headers):
        raise not_whole(f"a JPEG 2000 tile has fewer bytes than its {total} packets")
    source = _Source(headers, data)
    for order in tile.orders:
        for level, number, layer in _sequence(order, resolutions, tile.layers):
            if level.layers_seen.get(number, 0) != layer:
                continue  # came with an earlier order
            level.layers_seen[number] = layer + 1
            patience.blocks -= source.pass_packet(level, number, layer)
            if patience.blocks < 0:
                return
    source.check_end(patience)


def _sequence(
    order: Order, resolutions: list[list[_Resolution]], layers: int
) -> Iterator[tuple[_Resolution, int, int]]:
    """Yield resolution, precinct and layer of the packets in order (B.12)."""
    found = []
    for component in range(order.components[0], min(order.components[1], len(resolutions))):
        levels = resolutions[component]
        for number in range(order.resolutions[0], min(order.resolutions[1], len(levels))):
            found.append((number, component, levels[number]))
    layers = min(order.layers, layers)
    if order.progression < 2:
        found.sort(key=lambda entry: entry[:2])
        if order.progression == 0:
            for layer in range(layers):
                for _, _, level in found:
                    for precinct in range(level.count):
                        yield level, precinct, layer
            return
        for resolution in sorted({number for number, _, _ in found}):
            for layer in range(layers):
                for number, _, level in found:
                    if number == resolution:
                        for precinct in range(level.count):
                            yield level, precinct, layer
        return
    keys = []
    for place, (number, component, level) in enumerate(found):
        for precinct in range(level.count):
            row, column = level.place(precinct)
            key = {
                2: (number, row, column, component),
                3: (row, column, component, number),
                4: (component, row, column, number),
            }[order.progression]
            keys.append((*key, precinct, place))
    for *_, precinct, place in sorted(keys):
        for layer in range(layers):
            yield found[place][2], precinct, layer


class _Source:
    """The bytes of a tile, and how far its packets have been passed."""

    def __init__(self, headers: bytes | None, data: bytes) -> None:
        self._data, self._position = data, 0
        self._headers, self._header_position = headers, 0
        # Code blocks with many zeros in a row, and their style; how many zeros at most.
        self._suspects: dict[tuple[_Band, int, int], int] = {}

    def pass_packet(self, level: _Resolution, number: int, layer: int) -> int:
        """Go over one packet; return how many code blocks were looked at."""
        if self._data.startswith(_SOP, self._position):
            self._position += 6
        buffer = self._data if self._headers is None else self._headers
        start = self._position if self._headers is None else self._header_position
        bits, looked = _Bits(buffer, start), 0
        pieces: list[_Piece] = []
        try:
            if bits.bit():
                for band in level.precinct(number):
                    looked += _read_band(band, layer, level.style, bits, pieces)
        except IndexError as error:
            raise not_whole("packets of a JPEG 2000 tile are missing") from error
        end = bits.finish()
        if buffer.startswith(_EPH, end):
            end += 2
        if self._headers is None:
            self._position = end
        else:
            self._header_position = end
        self._pass_body(pieces, level)
        return looked

    def _pass_body(self, pieces: list[_Piece], level: _Resolution) -> None:
        """Go over the bytes of the code blocks."""
        start = self._position
        for band, block, length in pieces:
            band.spans.setdefault(block, []).append((self._position, self._position + length))
            self._position += length
        if self._position > len(self._data):
            raise not_whole("packets of a JPEG 2000 tile are missing")
        if level.style & (_BYPASS | _HIGH_THROUGHPUT):
            return  # raw bits may be anything
        if _FULL.search(self._data, start, self._position):
            raise not_whole("a packet of a JPEG 2000 tile is overwritten")
        if not _ZEROS.search(self._data, start, self._position):
            return
        for run in _ZEROS.finditer(self._data, start, self._position):
            if run.end() - run.start() > level.samples // _PATTERN + _SPARE:
                raise not_whole("a packet of a JPEG 2000 tile is overwritten with zeros")
        for band, block, length in pieces:
            for run in _ZEROS.finditer(self._data, start, start + length):
                suspect = band, block, level.style
                zeros = max(self._suspects.get(suspect, 0), run.end() - run.start())
                self._suspects[suspect] = zeros
            start += length

    def check_end(self, patience: Patience) -> None:
        """Check that the data end here, and read code blocks that hold many zeros."""
        left = self._data[self._position :]
        if len(left) > _LEFT_OVER or left.strip(b"\0\xff"):
            raise not_whole("a JPEG 2000 tile has more data than packets")
        worst = sorted(self._suspects, key=lambda suspect: -self._suspects[suspect])
        for band, block, style in worst:
            if style & _TERMINATED or patience.read < 1:
                continue
            patience.read -= 1
            data = b"".join(self._data[start:end] for start, end in band.spans[block])
            width, height = band.size(block)
            if not reads_well(data, width, height, band.passes[block], band.number, style):
                raise not_whole("a packet of a JPEG 2000 tile is overwritten with zeros")


def _read_band(band: _Band, layer: int, style: int, bits: _Bits, pieces: list[_Piece]) -> int:
    """Read what a packet's header says of one band (B.10.3 to B.10.7).

    What follows for its code blocks is added to ``pieces``.
    """
    for block in range(band.blocks):
        if band.length_bits[block]:
            included = bits.bit()
        else:
            included = band.inclusion.below(block, layer + 1, bits)
            if not band.any and not included and band.inclusion.least[-1] > layer:
                return 1  # nothing of this band in this layer
        if not included:
            continue
        band.any = True
        if not band.length_bits[block]:
            planes = 1
            while not band.planes.below(block, planes, bits):
                planes += 1
                if planes > _MOST_PLANES:
                    raise not_whole("a packet of the JPEG 2000 stream is damaged")
            band.length_bits[block] = 3
        passes = _read_passes(bits)
        while bits.bit():
            band.length_bits[block] += 1
        if band.length_bits[block] > 32:
            raise not_whole("a packet of the JPEG 2000 stream is damaged")
        length, done = 0, band.passes[block]
        band.passes[block] += passes
        while passes:
            taken = min(passes, _segment(done, style))
            length += bits.number(band.length_bits[block] + taken.bit_length() - 1)
            done, passes = done + taken, passes - taken
        pieces.append((band, block, length))
    return band.blocks


def _read_passes(bits: _Bits) -> int:
    """Read the number of coding passes (B.10.6)."""
    if not bits.bit():
        return 1
    if not bits.bit():
        return 2
    for width, none, first in ((2, 3, 3), (5, 31, 6), (7, -1, 37)):
        value = bits.number(width)
        if value != none:
            return first + value
    raise AssertionError


def _segment(done: int, style: int) -> int:
    """Return how many more passes belong to the same code word segment (D.4.2, D.6)."""
    if style & _TERMINATED or (style & _HIGH_THROUGHPUT and not done):
        return 1
    if not style & _BYPASS or style & _HIGH_THROUGHPUT:
        return _MOST_PASSES
    if done < 10:
        return 10 - done
    # Two raw passes, then one of arithmetic code.
    return 2 - (done - 10) % 3 if (done - 10) % 3 < 2 else 1
