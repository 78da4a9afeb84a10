"""Counting the bytes in LZW-coded data, as TIFF and GIF have them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.images.integrity import not_whole

_MOST_BITS = 12
_TABLE = 1 << _MOST_BITS
# Tables are begun anew when they are full, after thousands of codes; much more often is made to
# take long.
_LEAST_MEAN = 64
_SPARE = 4  # bytes, before or after decoding, that some writers add

Ints = NDArray[np.int64]


class Lzw:
    """A flavour of LZW.

    Args:
        bits: of a literal; codes begin one bit longer.
        high_first: whether codes fill bytes from the high end (TIFF) or the low end (GIF).
        early: whether codes grow one code before they must (TIFF).
    """

    def __init__(self, bits: int, *, high_first: bool, early: bool) -> None:
        self._clear, self._end = 1 << bits, (1 << bits) + 1
        self._high_first = high_first
        # When code j after a clear code is read, the table has so many entries. A full table
        # grows no more.
        entries = self._end + 1 + np.maximum(np.arange(_TABLE) - 1, 0)
        powers = 1 << np.arange(bits + 1, _MOST_BITS)
        self._widths = bits + 1 + (entries[:, None] + early >= powers).sum(1)
        self._places = np.append(0, np.cumsum(self._widths))

    def check(self, data: bytes | memoryview, expected: int) -> None:
        """Check that data expand to the expected number of bytes, and end there.

        Raises:
            ImageError: ``truncated_image``.
        """
        words, bits = _words(data, self._high_first), 8 * len(data)
        position, size, tables = 0, 0, 0
        # What each code stands for has so many bytes: first the literals, then an entry for every
        # code since the last clear code, its string and one byte of the next.
        lengths = [1] * (self._end + 1)
        while size < expected:
            known = len(lengths)
            codes, ends = self._codes(words, bits, position, known - self._end - 1)
            if not len(codes):
                raise not_whole(f"its data hold {size} of {expected} bytes")
            special = np.flatnonzero((codes == self._clear) | (codes == self._end))
            plain = int(special[0]) if len(special) else len(codes)
            _measure(codes[:plain].tolist(), lengths)
            sizes = size - np.arange(1, plain + 1) + np.cumsum(lengths[known:], dtype=np.int64)
            reached = int(np.searchsorted(sizes, expected))
            if reached < plain:
                position, size = int(ends[reached]), int(sizes[reached])
                lengths = lengths[: known + reached + 1]
                break
            position = int(ends[min(plain, len(codes) - 1)])
            size = int(sizes[-1]) if plain else size
            if len(special):
                if codes[plain] == self._end:
                    raise not_whole(f"its data hold {size} of {expected} bytes")
                lengths, tables = lengths[: self._end + 1], tables + 1
            if tables > 16 + len(data) // _LEAST_MEAN:
                raise not_whole("its tables are begun anew without need")
        following, _ = self._codes(words, bits, position, len(lengths) - self._end - 1)
        left = bytes(data[-(-position // 8) :]).strip(b"\0")
        ended = np.isin(following[:_SPARE], (self._clear, self._end)).any()
        if size > expected + _SPARE or (len(left) > _SPARE and not ended):
            raise not_whole("its data hold more than its pixels")

    def _codes(self, words: Any, bits: int, start: int, number: int) -> tuple[Ints, Ints]:
        """Return the codes from a bit on, and the bits where they end.

        ``number`` is how many codes came since the last clear code. They are right up to the next
        one.
        """
        first = min(number, _TABLE - 1)
        if first < _TABLE - 1:
            widths = self._widths[first : first + (256 if first < 256 else _TABLE)]
            ends = start + self._places[first + 1 : first + 1 + len(widths)] - self._places[first]
        else:
            widths = np.full(_TABLE, _MOST_BITS)
            ends = start + np.cumsum(widths)
        widths, ends = widths[ends <= bits], ends[ends <= bits]
        begins = ends - widths
        found = words[begins >> 3].astype(np.int64)
        low = begins & 7
        found >>= (32 - low - widths) if self._high_first else low
        return found & ((1 << widths) - 1), ends


def _measure(codes: list[int], lengths: list[int]) -> None:
    """Append the length of the entry that each code makes."""
    append = lengths.append
    try:
        for code in codes:
            append(lengths[code] + 1)
    except IndexError as error:
        raise not_whole("its data have codes that mean nothing") from error


def _words(data: bytes | memoryview, high_first: bool) -> Any:
    """Return the four bytes from each byte on as one number."""
    padded = bytes(data) + bytes(4)
    order = ">" if high_first else "<"
    return np.ndarray((len(data) + 1,), f"{order}u4", padded, strides=(1,))
