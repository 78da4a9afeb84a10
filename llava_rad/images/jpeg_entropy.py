"""Counting the blocks or samples in Huffman-coded JPEG data.

For the kinds of JPEG that no decoder at hand reports faults of: 12-bit sequential and lossless
ones. Nothing is decoded to pixels. Huffman codes can only be read one after the other, but a
reader that starts anywhere falls into step with the right one after some codes, so the data are
cut into pieces that are read side by side, each from a little before its start; a piece whose
reader was not yet in step is read again from where the one before it ended.

Readers are the columns of int64 [5, readers]: the bit, the coefficient within a block, the block
within a coded unit, the units passed, and the faults met (codes that do not exist, blocks that run
over their end). What comes next depends on the first three.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.images.integrity import not_whole

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_PIECE = 8 * 512  # bits
_RUN_IN = 8 * 96  # bits before a piece from which its reader starts
_WINDOW = 16  # bits of the longest code
_STEPS = 32  # after which readers that are done are put aside
_ROUNDS = 3  # of reading pieces again, before other phases are tried
_PHASES = 8  # bits
_FEW = 128  # pieces that are soon read one after the other
_GAP = bytes(8)  # around the data of an interval: no reader looks further
_BLOCK = 64  # coefficients
_END_OF_BLOCK = 128  # what the code for it passes, from wherever a block stands
# An entry of a table of codes: bits to go on; above them what is passed; above that a fault.
_PASSED, _FAULT = 8, 16

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Component:
    """A component of the frame: its identity, and blocks across and down in an interleaved unit."""

    identity: int
    across: int
    down: int


@dataclass(frozen=True)
class Table:
    """A Huffman table: how many codes there are of 1 to 16 bits, and their symbols in order."""

    counts: bytes
    symbols: bytes


@dataclass
class Scan:
    """A scan as its header has it, with what was in force for it, and its data.

    ``tables`` holds for each component the table of DC codes (lossless: of differences) and the
    one of AC codes. The scan brings the coefficients ``first`` to ``last`` down to bit ``low``.
    ``interval`` is the number of coded units between restart markers, 0 if there
    are none.
    """

    components: tuple[Component, ...]
    tables: tuple[tuple[Table | None, Table | None], ...]
    first: int
    last: int
    low: int
    interval: int
    data: memoryview


def check_scan(scan: Scan, rows: int, columns: int, frame: list[Component], side: int) -> None:
    """Check that a scan's data hold its units, in every restart interval, and nothing more.

    Args:
        scan: of a sequential (``side`` 8) or lossless frame (1).
        rows: of the picture.
        columns: of the picture.
        frame: all components.
        side: pixels along a side of a block.

    Raises:
        ImageError: ``truncated_image``.
    """
    total = _units_of(scan, rows, columns, frame, side)
    intervals = _intervals(bytes(scan.data))
    each = scan.interval or total
    if len(intervals) > 1 and not intervals[-1]:  # some devices put a marker after the last too
        intervals.pop()
    if len(intervals) != -(-total // each):
        raise not_whole("restart intervals of the JPEG stream are missing")
    expected = np.full(len(intervals), each, np.int64)
    expected[-1] = total - each * (len(intervals) - 1)
    data = _GAP.join([b"", *intervals, b""])
    lengths = np.array([len(part) + len(_GAP) for part in intervals], np.int64)
    stops = 8 * np.cumsum(lengths)
    starts = stops - 8 * (lengths - len(_GAP))
    codes = _Codes(scan, side)
    if codes.single:
        expected *= len(codes.blocks)
        codes.blocks = [0]
    _check_intervals(codes, data, starts, stops, expected)


def _units_of(scan: Scan, rows: int, columns: int, frame: list[Component], side: int) -> int:
    across = max(component.across for component in frame)
    down = max(component.down for component in frame)
    if len(scan.components) == 1:
        (component,) = scan.components
        columns = -(-columns * component.across // across)
        rows = -(-rows * component.down // down)
        across = down = 1
    return -(-columns // (side * across)) * -(-rows // (side * down))


def _intervals(data: bytes) -> list[bytes]:
    """Split data at restart markers, which count from 0 to 7 and over again; without stuffing."""
    parts = _RESTART.split(data)
    for number, marker in enumerate(parts[1::2]):
        if marker[0] & 7 != number & 7:
            raise not_whole("restart intervals of the JPEG stream are missing")
    return [part.replace(b"\xff\x00", b"\xff") for part in parts[::2]]


class _Codes:
    """What the 16 bits at a reader's place mean.

    Attributes:
        blocks: for each block of a coded unit, the row of its DC table in ``entries``; the next
            row is its AC table.
        entries: [tables * 65536], each ``bits | passed << 8 | faults << 16``.
        single: whether all is lossless data in one table. Then what codes pass are units of one
            block, and the second table goes over as many codes as fit into 16 bits.
    """

    def __init__(self, scan: Scan, side: int) -> None:
        lossless = side == 1
        rows: list[Ints] = []
        self.blocks: list[int] = []
        for component, (first, other) in zip(scan.components, scan.tables, strict=True):
            if first is None or (other is None and not lossless):
                raise not_whole("a Huffman table of the JPEG stream is missing")
            repeats = component.across * component.down if len(scan.components) > 1 else 1
            self.blocks += [len(rows)] * repeats
            rows.append(_entries(first, _lossless_step if lossless else _dc_step))
            rows.append(rows[-1] if lossless or other is None else _entries(other, _ac_step))
        self.single = lossless and all(np.array_equal(row, rows[0]) for row in rows)
        if self.single:
            rows = _single_steps(rows[0])
        self.entries = np.concatenate(rows)


def _dc_step(symbol: int) -> tuple[int, int]:
    return symbol & 15, 1


def _ac_step(symbol: int) -> tuple[int, int]:
    run, size = symbol >> 4, symbol & 15
    return size, run + 1 if size or run == 15 else _END_OF_BLOCK


def _lossless_step(symbol: int) -> tuple[int, int]:
    return symbol if symbol < 16 else 0, _END_OF_BLOCK  # 16 has no further bits


def _entries(table: Table, step: Callable[[int], tuple[int, int]]) -> Ints:
    """Return the entry of every 16 bits: ``step`` gives a symbol's further bits and what it passes.

    Bits that begin no code count as one bit and a fault.
    """
    entries = np.full(1 << _WINDOW, 1 | 1 << _FAULT, np.int64)
    place, symbols = 0, iter(table.symbols)
    for length, count in enumerate(table.counts, start=1):
        span = 1 << (_WINDOW - length)
        for _ in range(count):
            further, passed = step(next(symbols))
            entries[place : place + span] = (length + further) | passed << _PASSED
            place += span
    if place > 1 << _WINDOW:
        raise not_whole("a Huffman table of the JPEG stream is damaged")
    return entries


def _single_steps(entries: Ints) -> list[Ints]:
    """Return the entries that pass one unit, and those that pass all units within 16 bits."""
    bits, faults = entries & 255, entries >> _FAULT
    units = 1 - faults
    windows = np.arange(1 << _WINDOW)
    all_bits, all_units = bits.copy(), units.copy()
    while True:
        following = (windows << np.minimum(all_bits, _WINDOW)) & ((1 << _WINDOW) - 1)
        fits = (all_bits + bits[following] <= _WINDOW) & (faults[following] == 0) & (faults == 0)
        if not fits.any():
            break
        all_bits += np.where(fits, bits[following], 0)
        all_units += fits
    return [
        bits | units << _PASSED | faults << _FAULT,
        all_bits | all_units << _PASSED | faults << _FAULT,
    ]


def _check_intervals(codes: _Codes, data: bytes, starts: Ints, stops: Ints, expected: Ints) -> None:
    """Check that the bits from each start to its stop hold the expected number of units."""
    counts = np.maximum(1, -(-(stops - starts) // _PIECE))
    owner = np.repeat(np.arange(len(starts)), counts)
    first = np.cumsum(counts) - counts  # piece of each interval
    number = np.arange(len(owner)) - first[owner]
    begins = starts[owner] + _PIECE * number
    ends = np.minimum(begins + _PIECE, stops[owner])
    runs = np.maximum(begins - _RUN_IN, starts[owner])
    entries = np.zeros((5, len(owner)), np.int64)
    entries[0] = runs
    _advance(codes, data, entries, begins)
    entries[3:] = 0
    exits = entries.copy()
    _advance(codes, data, exits, ends)
    _join(codes, data, (runs, begins, ends), entries, exits)

    passed = np.add.reduceat(exits[3], first)
    if (passed < expected).any():
        raise not_whole("the JPEG stream has fewer pixels than its header says")
    # The piece of each interval in which its last unit ends is read again up to there.
    before = np.cumsum(exits[3]) - exits[3]
    before -= before[first][owner]
    final = np.flatnonzero(before < expected[owner])
    final = final[np.append(owner[final][1:] != owner[final][:-1], True)]
    ahead = (number < number[final][owner]) & (exits[4] > 0)
    last = entries[:, final].copy()
    _advance(codes, data, last, ends[final], expected - before[final])
    left = stops - last[0]
    if ahead.any() or last[4].any() or (left < 0).any():
        raise not_whole("the JPEG stream has codes that mean nothing")
    for stop, bits in zip(stops[left >= 8] // 8, left[left >= 8] // 8, strict=True):
        # Some devices pad the data. Other bytes left over mean that pixels were lost before.
        if data[stop - bits : stop].strip(b"\0\xff"):
            raise not_whole("the JPEG stream has more data than pixels")


def _join(
    codes: _Codes, data: bytes, pieces: tuple[Ints, Ints, Ints], entries: Ints, exits: Ints
) -> None:
    """Read pieces again until each begins where the one before it ended.

    ``pieces`` are where their run-ins, they themselves, and the next ones begin. A run-in of no
    bits belongs to the first piece of an interval.
    """
    runs, begins, ends = pieces
    follows = runs < begins
    few = entries.shape[1] <= _FEW
    for _ in range(1 if few else _ROUNDS):
        wrong = 1 + np.flatnonzero((entries[:3, 1:] != exits[:3, :-1]).any(0) & follows[1:])
        if not len(wrong):
            return
        entries[:3, wrong] = exits[:3, wrong - 1]
        again = entries[:, wrong].copy()
        _advance(codes, data, again, ends[wrong])
        exits[:, wrong] = again
    # Even areas, or color with one table for all: readers of other phases stay beside each other.
    # One of them is in step.
    tries = []
    for block in range(0 if few else len(codes.blocks)):
        for shift in range(_PHASES if len(codes.blocks) == 1 else 1):
            starts = np.zeros_like(entries)
            starts[0], starts[2] = runs + shift, block
            _advance(codes, data, starts, begins)
            starts[3:] = 0
            stops = starts.copy()
            _advance(codes, data, stops, ends)
            tries.append((starts, stops))
    for piece in range(int(wrong[0]), entries.shape[1]):
        before = exits[:3, piece - 1]
        if not follows[piece] or np.array_equal(entries[:3, piece], before):
            continue
        entries[:3, piece] = before
        for starts, stops in tries:
            if np.array_equal(starts[:3, piece], before):
                exits[:, piece] = stops[:, piece]
                break
        else:
            exits[:, piece] = _advance_one(codes, data, entries[:, piece], int(ends[piece]))


def _advance(
    codes: _Codes, data: bytes, readers: Ints, until: Ints, limits: Ints | None = None
) -> None:
    """Move readers on to the first code that begins at or after a bit, or past a unit."""
    # The four bytes from each byte on, without a copy.
    words = np.ndarray((len(data) - 3,), ">u4", data, strides=(1,))
    step = _step_single if codes.single else _step_blocks
    going = np.arange(readers.shape[1])
    while True:
        alive = readers[0, going] < until[going]
        if limits is not None:
            alive &= readers[3, going] < limits[going]
        going = going[alive]
        if not len(going):
            return
        part = np.ascontiguousarray(readers[:, going])
        step(codes, words, part, until[going], None if limits is None else limits[going])
        readers[:, going] = part


def _step_single(
    codes: _Codes, words: Any, readers: Ints, until: Ints, limits: Ints | None
) -> None:
    bit, _, _, units, faults = readers
    for _ in range(_STEPS):
        window = (words[bit >> 3].astype(np.int64) >> (16 - (bit & 7))) & 0xFFFF
        going = bit < until
        if limits is None:
            window += (bit <= until - _WINDOW).astype(np.int64) << _WINDOW
        else:
            going &= units < limits
        entry = codes.entries[window] * going
        bit += entry & 255
        units += (entry >> _PASSED) & 255
        faults += entry >> _FAULT


def _step_blocks(
    codes: _Codes, words: Any, readers: Ints, until: Ints, limits: Ints | None
) -> None:
    bit, coefficient, block, units, faults = readers
    tables = np.array(codes.blocks) << _WINDOW
    for _ in range(_STEPS):
        window = (words[bit >> 3].astype(np.int64) >> (16 - (bit & 7))) & 0xFFFF
        window += tables[block] + ((coefficient > 0).astype(np.int64) << _WINDOW)
        going = bit < until
        if limits is not None:
            going &= units < limits
        entry = codes.entries[window] * going
        bit += entry & 255
        coefficient += (entry >> _PASSED) & 255
        faults += entry >> _FAULT
        ended = coefficient >= _BLOCK
        faults += (coefficient > _BLOCK) & (coefficient < _END_OF_BLOCK)
        coefficient *= ~ended
        block += ended
        full = block == len(tables)
        units += full
        block *= ~full


def _advance_one(codes: _Codes, data: bytes, reader: Ints, until: int) -> list[int]:
    """Move a single reader on to the first code that begins at or after a bit."""
    bit, coefficient, block, units, faults = (int(value) for value in reader)
    entries = codes.entries
    while bit < until:
        byte = bit >> 3
        word = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
        window = (word >> (8 - (bit & 7))) & 0xFFFF
        if codes.single:
            entry = entries.item(window + ((bit <= until - _WINDOW) << _WINDOW))
            units += (entry >> _PASSED) & 255
        else:
            entry = entries.item(window + ((codes.blocks[block] + (coefficient > 0)) << _WINDOW))
            coefficient += (entry >> _PASSED) & 255
            if coefficient >= _BLOCK:
                faults += _BLOCK < coefficient < _END_OF_BLOCK
                coefficient, block = 0, block + 1
                if block == len(codes.blocks):
                    block, units = 0, units + 1
        bit += entry & 255
        faults += entry >> _FAULT
    return [bit, coefficient, block, units, faults]
