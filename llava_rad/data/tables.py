"""CSV tables of data sets, read with errors that name the file and the missing column."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_rad.errors import DataError


def read_table(path: Path, columns: Sequence[str] = (), *, remedy: str = "") -> Iterator[dict]:
    """Yield the rows of a CSV file (``.csv`` or ``.csv.gz``) as dictionaries of stripped texts.

    Args:
        path: the file.
        columns: the columns that must be there.
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
            for row in reader:
                yield {
                    name: (value or "").strip() for name, value in row.items() if name is not None
                }
    except UnicodeDecodeError as error:
        raise DataError(
            f"the table is not UTF-8 ({error})", where=path, kind="bad_table"
        ) from error
