"""Masks that lie as run lengths in rows of a table, and how a manifest names them.

``OriginalResolution/CheXpert.csv#52311-9e0f3a1c:Left Lung`` is the cell ``Left Lung`` of the row
that begins at byte 52,311; a mask of several rows has several bytes, joined by ``+``. The eight
digits are the CRC-32 of the cells: a table that was exchanged since is an error, and no other
image's mask is read in its place. Nothing is written for a mask, and only the masks that are needed
are decoded, from tables of any size.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_rad.errors import DataError
from llava_rad.readers import Row, read_row

_NAME = re.compile(
    r"(?P<table>.+)#(?P<offsets>\d{1,15}(?:\+\d{1,15})*)-(?P<check>[0-9a-f]{8}):(?P<column>[^/\\]+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class MaskRows:
    """The place of a mask: ``str()`` of it stands in a manifest where a file's name would.

    Attributes:
        table: the CSV file.
        offsets: the bytes at which its rows begin.
        check: CRC-32 of the cells.
        column: of the run lengths.

    Example:
        >>> from llava_rad.data.mask_rows import MaskRows
        >>> str(MaskRows("masks/train-rle.csv", (120, 4711), "9e0f3a1c", "EncodedPixels"))
        'masks/train-rle.csv#120+4711-9e0f3a1c:EncodedPixels'
    """

    table: str
    offsets: tuple[int, ...]
    check: str
    column: str

    @classmethod
    def of(cls, table: Path, rows: Sequence[Row], column: str) -> "MaskRows":
        """The place of one mask whose regions are rows that were read from a CSV table."""
        offsets = tuple(row.offset for row in rows if row.offset is not None)
        return cls(str(table), offsets, _checksum(rows, column), column)

    @classmethod
    def parse(cls, name: str) -> "MaskRows | None":
        """The place that a mask's name in a manifest stands for; None for the name of a file."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        offsets = tuple(int(offset) for offset in found["offsets"].split("+"))
        return cls(found["table"], offsets, found["check"], found["column"])

    def __str__(self) -> str:
        return f"{self.table}#{'+'.join(map(str, self.offsets))}-{self.check}:{self.column}"

    def read(self) -> list[Row]:
        """The rows.

        Raises:
            DataError: the table is absent or damaged, or not the one that the place was made from.
        """
        try:
            rows = [read_row(self.table, offset) for offset in self.offsets]
        except DataError as error:
            if error.kind == "missing_table":
                raise
            raise self._exchanged() from error
        if any(self.column not in row for row in rows) or self.check != _checksum(
            rows, self.column
        ):
            raise self._exchanged()
        return rows

    def _exchanged(self) -> DataError:
        return DataError(
            f"the run lengths of {self.column!r} are not those that the manifest was made from",
            where=f"{self.table}, byte {self.offsets[0]}",
            remedy="Restore the table, or convert the data set again",
            kind="mask_table_changed",
        )


def _checksum(rows: Sequence[Row], column: str) -> str:
    return f"{zlib.crc32('/'.join(row[column] for row in rows).encode('utf-8')):08x}"
