"""CSV tables of data sets, read with errors that name the file and the missing column."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.errors import DataError


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    *,
    filled: Sequence[str] = (),
    log: ConversionLog | None = None,
    remedy: str = "",
) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file (``.csv`` or ``.csv.gz``) as dictionaries of stripped texts.

    Args:
        path: the file.
        columns: the columns that must be there.
        filled: those of the columns that must not be empty; rows where one is are left out.
        log: where such rows are recorded, by line.
        remedy: what to do when the file is absent.

    Raises:
        DataError: the file is absent, is not UTF-8 or lacks a column.
    """
    if not path.is_file():
        raise DataError(
            "this table of the data set is missing",
            where=path,
            remedy=remedy or "Give the folder that the data set was unpacked into",
            kind="missing_table",
        )
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = [name for name in columns if name not in (reader.fieldnames or ())]
            if absent:
                raise DataError(
                    f"the table has no column {', '.join(map(repr, absent))}",
                    where=path,
                    remedy=f"Its columns are {', '.join(reader.fieldnames or ())}",
                    kind="missing_column",
                )
            for cells in reader:
                # Cells beyond the header are under None; missing ones are None.
                row = {name: (cell or "").strip() for name, cell in cells.items() if name}
                empty = next((name for name in filled if not row[name]), None)
                if empty is None:
                    yield row
                elif log is not None:
                    log.leave_out(f"no {empty}", f"{path.name}:{reader.line_num}")
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile) as error:
        what = f"not a CSV table in UTF-8 ({error})"
        raise DataError(what, where=path, kind="bad_table") from error
