"""Tables of data sets: rows that cannot be used are recorded, and an image comes once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_rad import readers
from llava_rad.data.conversion import ConversionLog
from llava_rad.readers import Row


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    *,
    filled: Sequence[str] = (),
    once: str = "",
    compare: Sequence[str] = (),
    log: ConversionLog | None = None,
    remedy: str = "Give the folder that the data set was unpacked into",
) -> Iterator[Row]:
    """Yield the rows of a table as dictionaries of stripped texts (:mod:`llava_rad.readers`).

    Args:
        path: the file.
        columns: the columns that must be there.
        filled: those of the columns that must not be empty; rows where one is are left out.
        once: a column whose values name an image. Of several rows with one value the first is
            taken, and the log notes ``image_listed_again``, or ``rows_of_image_disagree`` where
            the others say something else.
        compare: the columns by which rows of one image disagree; all of them if empty.
        log: where such rows are recorded.
        remedy: what to do when the file is absent.

    Raises:
        DataError: see :func:`llava_rad.readers.read_table`.
    """
    seen: dict[str, int] = {}
    for row in readers.read_table(path, columns, remedy=remedy):
        empty = next((name for name in filled if not row[name]), None)
        if empty is not None:
            if log is not None:
                log.leave_out(f"no {empty}", f"{path.name}:{row.where.rsplit(':', 1)[1]}")
            continue
        if once and row[once]:
            content = hash(tuple(row.get(name) for name in compare or row))
            first = seen.get(row[once])
            if first is not None:
                if log is not None:
                    same = first == content
                    log.note("image_listed_again" if same else "rows_of_image_disagree", row[once])
                continue
            seen[row[once]] = content
        yield row
