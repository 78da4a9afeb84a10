"""DICOM lookup tables (PS3.3 C.11.1.1.1, C.11.2.1.1, C.7.6.3.1.6), as files really store them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LookupTable:
    """A table from values to values.

    Attributes:
        first: the value that the first entry stands for.
        entries: int64 [n], the outputs; values before the first or after the last entry get that.
        depth: bits of an output: 2**depth - 1 is white.
        repair: what in the descriptor contradicted the entries, or an empty string.
    """

    first: int
    entries: NDArray[np.int64]
    depth: int
    repair: str

    def output(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the entry of each value."""
        position = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[position.astype(np.int64)].astype(np.float64)

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map values to the unit interval by the depth of the table."""
        return self.output(values) / (2**self.depth - 1)


def read_table(
    descriptor: Any, data: Any, *, little_endian: bool, signed_input: bool
) -> LookupTable:
    """Read a table from its LUT Descriptor and LUT Data.

    The data decide where they contradict the descriptor: files declare 8 bits for entries of 16,
    pack 8-bit entries one or two to a word, or declare 16 bits for entries that never exceed 12.

    Args:
        descriptor: three numbers: entries, first value, bits of an entry.
        data: the entries as bytes or as a sequence of integers.
        little_endian: byte order of data that come as bytes.
        signed_input: whether the values looked up may be negative.

    Raises:
        ValueError: if the table is empty, shorter than declared or not three numbers.
    """
    count, first, declared = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16  # 0 means 65536; some read the descriptor as signed
    if signed_input and first >= 2**15:
        first -= 2**16
    if isinstance(data, bytes | bytearray):
        if len(data) >= 2 * count:
            entries = np.frombuffer(data[: 2 * count], "<u2" if little_endian else ">u2")
        elif len(data) >= count:
            words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")
            entries = words.astype("<u2").view(np.uint8)
            if len(data) % 2:
                entries = np.append(entries, np.uint8(data[-1]))
        else:
            raise ValueError(f"the table holds {len(data)} bytes for {count} entries")
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) % 2**16
    entries = entries[:count].astype(np.int64)
    if len(entries) < count:
        raise ValueError(f"the table holds {len(entries)} of {count} entries")
    needed = max(1, int(entries.max()).bit_length())
    repair = ""
    if needed != declared:
        repair = f"the descriptor declares {declared} bits, the entries need {needed}"
    return LookupTable(first, entries, needed, repair)
