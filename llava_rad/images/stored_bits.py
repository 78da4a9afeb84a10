"""Which bits of a stored value belong to the picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS = 64  # compared at once
# With fewer neighbours than this, or a vote closer than this, neighbours decide nothing.
_MIN_PAIRS = 16
_CLEAR_SHARE = 0.6


@dataclass(frozen=True)
class Evidence:
    """What the header says of the values.

    Attributes:
        smallest: Smallest Image Pixel Value, or None.
        largest: Largest Image Pixel Value, or None.
        window: stored values at the ends of the first window, or None.
    """

    smallest: float | None
    largest: float | None
    window: tuple[float, float] | None


def within_bits(values: NDArray[np.integer], bits: int, *, signed: bool) -> NDArray[np.int64]:
    """Return values without the bits above the lower ``bits``, their sign extended."""
    kept = values.astype(np.int64) & (2**bits - 1)
    return kept - 2**bits * (kept >= 2 ** (bits - 1)) if signed else kept


def upper_bits_are_foreign(
    pixels: NDArray[np.integer],
    padding: NDArray[np.bool_] | None,
    bits: int,
    evidence: Evidence,
) -> bool:
    """Decide what values beyond Bits Stored are: rubbish in unused bits, or a picture.

    Both are common: bits that the detector or another program uses for its own ends, and a Bits
    Stored that is smaller than the values. The rule, the first that says something:

    1. Smallest and Largest Image Pixel Value equal the ends of the values with or without the
       upper bits.
    2. Neighbours whose upper bits differ. A picture goes on smoothly from one value to the next,
       so if the upper bits belong to it, these neighbours are close together with them and far
       apart (about 2**bits) without; if they are foreign, it is the other way round. What most
       pairs say holds, if it is clearly most.
    3. A window that ends within Bits Stored, or that reaches beyond.
    4. Otherwise Bits Stored is taken at its word.

    Args:
        pixels: [rows, columns] or [rows, columns, channels], as stored.
        padding: which pixels are no part of the picture, or None.
        bits: Bits Stored.
        evidence: of the header.

    Returns:
        True if the upper bits are to be removed.
    """
    signed = pixels.dtype.kind == "i"
    raw, cut = _ends(pixels, padding, bits, signed)
    for stated, place in ((evidence.largest, 1), (evidence.smallest, 0)):
        # Also a header that states the exact end of one and not of the other.
        if stated is not None and raw[place] != cut[place] and stated in (raw[place], cut[place]):
            return stated == cut[place]

    pairs = smooth = 0
    for first, second in _neighbours(pixels, padding):
        a, b = (within_bits(side, bits, signed=signed) for side in (first, second))
        differ = (first - a) != (second - b)
        whole = np.abs(first - second)[differ]
        pairs += whole.size
        smooth += int(np.count_nonzero(whole < np.abs(a - b)[differ]))
    if pairs >= _MIN_PAIRS and max(smooth, pairs - smooth) >= _CLEAR_SHARE * pairs:
        return smooth < pairs - smooth

    if evidence.window is not None:
        limit = 2 ** (bits - 1) if signed else 2**bits
        return max(abs(end) for end in evidence.window) <= 1.01 * limit
    return True


def _ends(
    pixels: NDArray[np.integer], padding: NDArray[np.bool_] | None, bits: int, signed: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest value, with and without the upper bits."""
    ends = []
    for start in range(0, len(pixels), _ROWS):
        block = pixels[start : start + _ROWS]
        used = block.ravel() if padding is None else block[~padding[start : start + _ROWS]]
        if used.size:
            kept = within_bits(used, bits, signed=signed)
            ends.append((used.min(), used.max(), kept.min(), kept.max()))
    low, high, kept_low, kept_high = zip(*ends, strict=True)
    return (int(min(low)), int(max(high))), (int(min(kept_low)), int(max(kept_high)))


def _neighbours(
    pixels: NDArray[np.integer], padding: NDArray[np.bool_] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of pixels below and beside each other, block by block."""
    for start in range(0, len(pixels), _ROWS):
        block = pixels[start : start + _ROWS + 1].astype(np.int64)
        valid = (
            np.ones(block.shape, bool) if padding is None else ~padding[start : start + _ROWS + 1]
        )
        below = valid[1:] & valid[:-1]
        yield block[1:][below], block[:-1][below]
        rows = block[:_ROWS]
        beside = valid[:_ROWS, 1:] & valid[:_ROWS, :-1]
        yield rows[:, 1:][beside], rows[:, :-1][beside]
