"""Reading one JPEG 2000 code block, to see whether its codes end where its data do.

Arithmetic code is never invalid, but a reader that was led astray by damage needs more or fewer
bytes than there are for the coding passes that the block has. Only what the contexts depend on is
kept; no coefficient is computed. Numbers in brackets are sections of ISO/IEC 15444-1.
"""

# Probability estimates (C.3.2): size of the less probable interval, next states after the more
# and the less probable symbol, and whether the latter turns the sense.
_STATES = (
    *((0x5601, 1, 1, 1), (0x3401, 2, 6, 0), (0x1801, 3, 9, 0), (0x0AC1, 4, 12, 0)),
    *((0x0521, 5, 29, 0), (0x0221, 38, 33, 0), (0x5601, 7, 6, 1), (0x5401, 8, 14, 0)),
    *((0x4801, 9, 14, 0), (0x3801, 10, 14, 0), (0x3001, 11, 17, 0), (0x2401, 12, 18, 0)),
    *((0x1C01, 13, 20, 0), (0x1601, 29, 21, 0), (0x5601, 15, 14, 1), (0x5401, 16, 14, 0)),
    *((0x5101, 17, 15, 0), (0x4801, 18, 16, 0), (0x3801, 19, 17, 0), (0x3401, 20, 18, 0)),
    *((0x3001, 21, 19, 0), (0x2801, 22, 19, 0), (0x2401, 23, 20, 0), (0x2201, 24, 21, 0)),
    *((0x1C01, 25, 22, 0), (0x1801, 26, 23, 0), (0x1601, 27, 24, 0), (0x1401, 28, 25, 0)),
    *((0x1201, 29, 26, 0), (0x1101, 30, 27, 0), (0x0AC1, 31, 28, 0), (0x09C1, 32, 29, 0)),
    *((0x08A1, 33, 30, 0), (0x0521, 34, 31, 0), (0x0441, 35, 32, 0), (0x02A1, 36, 33, 0)),
    *((0x0221, 37, 34, 0), (0x0141, 38, 35, 0), (0x0111, 39, 36, 0), (0x0085, 40, 37, 0)),
    *((0x0049, 41, 38, 0), (0x0025, 42, 39, 0), (0x0015, 43, 40, 0), (0x0009, 44, 41, 0)),
    *((0x0005, 45, 42, 0), (0x0001, 45, 43, 0), (0x5601, 46, 46, 0)),
)
_SIGN, _REFINE, _RUN, _UNIFORM = 9, 14, 17, 18  # first contexts of each kind (D.3)
_RESET, _CAUSAL, _SYMBOL = 2, 8, 32  # flags of the code block style (A.6.1)
_HL, _HH = 1, 3
_STRIPE = 4
_SLACK = 5  # bytes at the end that are read ahead, or that an encoder leaves out


class _Decoder:
    """The arithmetic decoder (C.3)."""

    def __init__(self, data: bytes) -> None:
        # Beyond the end it reads FF, as if a marker came.
        self._data = data + b"\xff\xff\xff"
        self.position = 0
        self.beyond = 0  # bytes that were wanted after the end
        self.reset()
        self._code = self._data[0] << 16
        self._interval = 0x8000
        self._shifts = 0
        self._read()
        self._code <<= 7
        self._shifts -= 7

    def reset(self) -> None:
        """Begin all contexts anew (D.7)."""
        self._states = [0] * 19
        self._states[0], self._states[_RUN], self._states[_UNIFORM] = 4, 3, 46
        self._senses = [0] * 19

    def _read(self) -> None:
        following = self._data[self.position + 1]
        if self._data[self.position] == 0xFF:
            if following > 0x8F:
                self._code += 0xFF00
                self._shifts = 8
                self.beyond += 1
            else:
                self.position += 1
                self._code += following << 9
                self._shifts = 7
        else:
            self.position += 1
            self._code += following << 8
            self._shifts = 8

    def bit(self, context: int) -> int:
        state = self._states[context]
        size, more, less, turn = _STATES[state]
        bit = self._senses[context]
        interval = self._interval - size
        if self._code >> 16 < size:
            exchanged = interval < size
            interval = size
        else:
            self._code -= size << 16
            if interval & 0x8000:
                self._interval = interval
                return bit
            exchanged = interval >= size
        if exchanged:
            self._states[context] = more
        else:
            bit ^= 1
            self._senses[context] ^= turn
            self._states[context] = less
        while not interval & 0x8000:
            if not self._shifts:
                self._read()
            interval <<= 1
            self._code <<= 1
            self._shifts -= 1
        self._interval = interval
        return bit


def reads_well(data: bytes, width: int, height: int, passes: int, band: int, style: int) -> bool:
    """Return whether a code block's passes take as many bytes as it has, give or take a few.

    Args:
        data: of the block, all layers joined.
        width: of the block, in samples.
        height: of the block, in samples.
        passes: that the data hold, in one code word segment.
        band: 0 LL, 1 HL, 2 LH, 3 HH.
        style: flags of the code block style; those for raw passes and for ending each pass unset.
    """
    decoder = _Decoder(data)
    block = _Block(width, height, band, style, decoder)
    for number in range(passes):
        (block.clean, block.propagate, block.refine)[number % 3]()
        if style & _RESET:
            decoder.reset()
    left = len(data) - 1 - decoder.position
    return block.marked_well and left <= _SLACK and decoder.beyond <= _SLACK


class _Block:
    """What is known of a block's samples, in rows with a margin of one sample all around."""

    def __init__(self, width: int, height: int, band: int, style: int, decoder: _Decoder) -> None:
        self.marked_well = True
        self._row = width + 2
        size = self._row * (height + 2)
        self._signs = [0] * size  # 1 or -1 of significant samples
        self._refined, self._visited = bytearray(size), bytearray(size)
        self._contexts = _zero_contexts(band)
        self._bit = decoder.bit
        self._style = style
        # Columns of stripes in order, and whether what is under a sample does not count.
        self._columns = [
            [
                ((y + 1) * self._row + x + 1, bool(style & _CAUSAL) and y == upper + _STRIPE - 1)
                for y in range(upper, min(upper + _STRIPE, height))
            ]
            for upper in range(0, height, _STRIPE)
            for x in range(width)
        ]

    def propagate(self) -> None:
        """The significance propagation pass (D.3.1)."""
        signs, visited = self._signs, self._visited
        for column in self._columns:
            for place, last in column:
                if signs[place]:
                    continue
                context = self._zero_context(place, last)
                if context:
                    visited[place] = 1
                    if self._bit(context):
                        self._read_sign(place, last)

    def refine(self) -> None:
        """The magnitude refinement pass (D.3.3)."""
        for column in self._columns:
            for place, last in column:
                if not self._signs[place] or self._visited[place]:
                    continue
                if self._refined[place]:
                    self._bit(_REFINE + 2)
                else:
                    self._bit(_REFINE + (self._zero_context(place, last) > 0))
                    self._refined[place] = 1

    def clean(self) -> None:
        """The cleanup pass (D.3.4)."""
        signs, visited = self._signs, self._visited
        for column in self._columns:
            first = 0
            if len(column) == _STRIPE and not any(
                signs[place] or visited[place] or self._zero_context(place, last)
                for place, last in column
            ):
                if not self._bit(_RUN):
                    continue
                first = self._bit(_UNIFORM) << 1 | self._bit(_UNIFORM)
                self._read_sign(*column[first])
                first += 1
            for place, last in column[first:]:
                if signs[place] or visited[place]:
                    continue
                if self._bit(self._zero_context(place, last)):
                    self._read_sign(place, last)
        self._visited = bytearray(len(visited))
        if self._style & _SYMBOL:
            symbol = [self._bit(_UNIFORM) for _ in range(4)]
            self.marked_well = self.marked_well and symbol == [1, 0, 1, 0]

    def _zero_context(self, place: int, last: bool) -> int:
        """Return the context of a sample by its significant neighbours, 0 if there are none."""
        signs, row = self._signs, self._row
        beside = (signs[place - 1] != 0) + (signs[place + 1] != 0)
        above = int(signs[place - row] != 0)
        corners = (signs[place - row - 1] != 0) + (signs[place - row + 1] != 0)
        if not last:
            above += signs[place + row] != 0
            corners += (signs[place + row - 1] != 0) + (signs[place + row + 1] != 0)
        return self._contexts[15 * beside + 5 * above + corners]

    def _read_sign(self, place: int, last: bool) -> None:
        signs, row = self._signs, self._row
        across = _clamp(signs[place - 1] + signs[place + 1])
        down = _clamp(signs[place - row] + (0 if last else signs[place + row]))
        turned = across < 0 or (across == 0 and down < 0)
        if turned:
            across, down = -across, -down
        bit = self._bit(_SIGN + 3 * across + down)
        signs[place] = -1 if bit ^ turned else 1


def _clamp(value: int) -> int:
    return max(-1, min(1, value))


def _zero_contexts(band: int) -> list[int]:
    """Return the context for each number of significant neighbours (D.1).

    Those beside (0 to 2) count 15 each, those above and under (0 to 2) 5, the corners (0 to 4) 1.
    """
    found = []
    for beside in range(3):
        for above in range(3):
            for corners in range(5):
                if band == _HH:
                    sides = beside + above
                    lowest, most = ((0, 2), (3, 2), (6, 1), (8, 0), (8, 0))[corners]
                    found.append(lowest + min(sides, most))
                    continue
                main, other = (above, beside) if band == _HL else (beside, above)
                if main == 2:
                    found.append(8)
                elif main == 1:
                    found.append(7 if other else 6 if corners else 5)
                else:
                    found.append(2 + other if other else min(corners, 2))
    return found
