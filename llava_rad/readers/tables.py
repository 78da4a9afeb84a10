"""Tables: CSV and TSV, plain or gzipped, and Parquet."""

import csv
import gzip
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from llava_rad.errors import DataError, LlavaRadError, cut
from llava_rad.names import one_line
from llava_rad.readers.missing import is_missing
from llava_rad.readers.text import decode, why
from llava_rad.wording import counted, listed

#: The endings of the tables that are read.
TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")

_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 16 << 20
_MOST_BLANK = 100_000
_LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")


class Row(dict[str, str]):
    """A row: column to text, empty where the value is missing.

    Attributes:
        where: file and line, for messages.
        offset: the byte at which it begins (:func:`read_row`), None in a Parquet file.
    """

    where: str = ""
    offset: int | None = None


def read_table(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    error: type[LlavaRadError] = DataError,
    remedy: str = "",
) -> Iterator[Row]:
    """Yield the rows of a table of any of :data:`TABLE_ENDINGS`; other endings are read as CSV.

    Texts are stripped, and words for "missing" (:func:`llava_rad.readers.is_missing`) are empty
    texts. Numbers of a Parquet file are written as texts.

    Args:
        path: the file.
        columns: the columns that must be there.
        error: the class of what is raised.
        remedy: what to do when the file is absent.

    Raises:
        LlavaRadError: of the class ``error``, with file and line: the file is absent, damaged, cut
            off or not UTF-8; a column is missing or comes twice; a quote is not closed; a row has
            more or fewer cells than there are columns.
    """
    path = Path(path)
    if not _is_file(path):
        raise _absent(path, remedy, error)
    if path.suffix.lower() == ".parquet":
        for number, values in read_parquet(path, columns, error=error):
            row = Row((name, _as_text(value)) for name, value in values.items())
            row.where = f"{one_line(str(path))}:{number}"
            yield row
        return
    yield from _delimited_rows(path, columns, error)


def read_row(path: str | Path, offset: int, *, error: type[LlavaRadError] = DataError) -> Row:
    """One row of a CSV or TSV table, without the rows before it.

    Args:
        path: the file; a gzipped one is unpacked up to the row.
        offset: :attr:`Row.offset` of the row.
        error: the class of what is raised.

    Raises:
        LlavaRadError: as :func:`read_table` does.
    """
    path = Path(path)
    header = read_columns(path, error=error)
    where = f"{one_line(str(path))}, byte {offset}"
    with _Lines(path, error) as lines:
        delimiter = _delimiter(path, lines.head())
        lines.seek(offset)
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
        except csv.Error as problem:
            raise _bad_quote(problem, where, error) from problem
    row = _row(header, cells, where, error)
    row.offset = offset
    return row


def read_columns(path: str | Path, *, error: type[LlavaRadError] = DataError) -> list[str]:
    """The names of a table's columns, in its order; none for an empty file.

    Raises:
        LlavaRadError: as :func:`read_table` does.
    """
    path = Path(path)
    if not _is_file(path):
        raise _absent(path, "", error)
    if path.suffix.lower() == ".parquet":
        with _opened_parquet(path, error) as file:
            return list(file.schema_arrow.names)
    _, _, header = next(_records(path, error), ("", 0, []))
    return [cell.strip() for cell in header]


def read_parquet(
    path: str | Path, columns: Sequence[str] = (), *, error: type[LlavaRadError] = DataError
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row from 1, values by column) of a Parquet file.

    Args:
        path: the file.
        columns: the columns that must be there.
        error: the class of what is raised.

    Raises:
        LlavaRadError: of the class ``error``: the file cannot be read, or lacks a column.
    """
    with _opened_parquet(path, error) as file:
        _check_columns(list(file.schema_arrow.names), columns, one_line(str(path)), error)
        batches = file.iter_batches(batch_size=1024)
        number = 0
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except Exception as problem:
                raise _bad_parquet(path, problem, error) from problem
            if batch is None:
                return
            for row in rows:
                number += 1
                yield number, row


def _opened_parquet(path: str | Path, error: type[LlavaRadError]) -> Any:
    import pyarrow.parquet

    # Damaged files make the library raise nearly anything: nothing but its own calls stands in
    # the blocks that catch it.
    try:
        file = pyarrow.parquet.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018 (read from the footer now, and not later)
    except Exception as problem:
        raise _bad_parquet(path, problem, error) from problem
    return file


def _bad_parquet(path: str | Path, problem: Exception, error: type[LlavaRadError]) -> LlavaRadError:
    return error(
        f"not a Parquet file, or damaged ({why(problem)})",
        where=one_line(str(path)),
        remedy="Write or copy it again",
        kind="bad_file",
    )


def _absent(path: Path, remedy: str, error: type[LlavaRadError]) -> LlavaRadError:
    return error(
        "this table is missing",
        where=one_line(str(path)),
        remedy=remedy or "Check the path",
        kind="missing_table",
    )


def _delimited_rows(
    path: Path, columns: Sequence[str], error: type[LlavaRadError]
) -> Iterator[Row]:
    records = _records(path, error)
    _, _, names = next(records, ("", 0, []))
    header = [name.strip() for name in names]
    _check_columns(header, columns, one_line(str(path)), error)
    for where, offset, cells in records:
        row = _row(header, cells, where, error)
        row.offset = offset
        yield row


def _records(path: Path, error: type[LlavaRadError]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (file and line, byte, cells) of each record that is not blank, the header first."""
    lines = _Lines(path, error)
    delimiter = _delimiter(path, lines.head())
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    ends = _LastCells()
    name = one_line(str(path))
    blank = 0
    with lines:
        while True:
            where, offset = f"{name}:{reader.line_num + 1}", lines.position
            try:
                cells = next(reader, None)
            except csv.Error as problem:
                raise _bad_quote(problem, where, error) from problem
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                blank += 1
                if blank > _MOST_BLANK:  # a few kilobytes of gzip can hold billions
                    raise error(
                        f"more than {_MOST_BLANK:,} blank lines follow one another",
                        where=where,
                        remedy="Check that this is a text table",
                        kind="bad_table",
                    )
                continue
            blank = 0
            if lines.open_end and not (lines.last.rstrip().endswith('"') or ends.whole(cells[-1])):
                raise error(
                    f"the file ends in the middle of a line, with {cut(cells[-1], 40)!r}: it may "
                    "be cut off",
                    where=where,
                    remedy="Copy the file again; if it is whole, end it with a line break",
                    kind="cut_off",
                )
            ends.add(cells[-1])
            _check_poured(cells, delimiter, where, error)
            yield where, offset, cells


def _delimiter(path: Path, head: str) -> str:
    """What the header is separated by: some tables of commas are called .tsv, and the reverse."""
    usual = "\t" if path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")) else ","
    other = "," if usual == "\t" else "\t"
    return other if usual not in head and other in head else usual


def _row(header: list[str], cells: list[str], where: str, error: type[LlavaRadError]) -> Row:
    named = len(header)
    while named and not header[named - 1]:
        named -= 1  # a separator at the end of each line makes a column without a name
    beyond = any(cell.strip() for cell in cells[len(header) :])
    if len(cells) < named or beyond:
        raise error(
            f"the row has {counted(len(cells), 'cell')}, and the header {counted(named, 'column')}",
            where=where,
            remedy="Put text that holds a separator or a line break in double quotes; if this is "
            "the last row, the file may be cut off",
            kind="bad_row",
        )
    row = Row(
        (name, "" if is_missing(cell) else cell.strip())
        for name, cell in zip(header, cells, strict=False)
        if name
    )
    row.where = where
    return row


def _check_poured(cells: list[str], delimiter: str, where: str, error: type[LlavaRadError]) -> None:
    """Refuse a cell that holds what looks like the start of another row.

    A quote too many here and one too few there make a valid table in which one report runs into
    the next: a line inside the cell then begins with cells of the same shape as this row's own.
    """
    for place, cell in enumerate(cells):
        own = cells[:place]
        if not place or "\n" not in cell:
            continue
        shapes = [_shape(text) for text in own]
        for line in cell.splitlines()[1:]:
            begin = line.split(delimiter)[: place + 1]
            alike = len(begin) > place and [_shape(text) for text in begin[:-1]] == shapes
            if not alike or not any("9" in shape for shape in shapes):
                continue
            # A lone number may be a measurement; the next one is the next row.
            if shapes == ["9"] and int(begin[0]) != int(own[0]) + 1:
                continue
            raise error(
                f"a cell holds what looks like another row ({cut(line, 40)!r})",
                where=where,
                remedy="Check the quotes of this row and of the one that follows",
                kind="bad_table",
            )


def _shape(text: str) -> str:
    return re.sub(r"[0-9]{1,18}", "9", re.sub(r"[A-Za-z]+", "a", text[:200]))


def _check_columns(
    names: Sequence[str], columns: Sequence[str], where: str, error: type[LlavaRadError]
) -> None:
    there = [name for name in names if name]
    twice = sorted({name for name in there if there.count(name) > 1})
    if twice:
        raise error(
            f"the column {', '.join(map(repr, twice))} comes more than once",
            where=where,
            remedy="Give each column a name of its own",
            kind="repeated_column",
        )
    absent = [name for name in columns if name not in there]
    if absent:
        hint = "; separate them by commas" if len(there) == 1 and ";" in there[0] else ""
        raise error(
            f"the table has no column {', '.join(map(repr, absent))}",
            where=where,
            remedy=f"{listed(there, 'column')}{hint}" if there else "The file is empty",
            kind="missing_column",
        )


def _bad_quote(problem: csv.Error, where: str, error: type[LlavaRadError]) -> LlavaRadError:
    said = str(problem)
    if "unexpected end" in said:
        what = "a quote that is not closed"
    elif "expected after" in said:
        what = "a quote in the middle of a quoted cell, or one before it that is not closed"
    elif "field limit" in said:
        what = "a cell of more than 131,072 characters, or a quote that is not closed"
    else:
        what = said
    return error(
        f"not a CSV table ({what})",
        where=where,
        remedy='Close each quote, and write a quote inside a quoted cell twice ("")',
        kind="bad_table",
    )


class _LastCells:
    """Whether the last cell of a file without a final line break is whole.

    A file that was cut off looks like one whose writer leaves the final line break out. The cell
    is taken for whole where it ends a sentence, or says what rows before it said and is the
    beginning of no other such cell.
    """

    _MOST = 10_000

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, cell: str) -> None:
        if len(self._seen) < self._MOST and len(cell) < 64:
            self._seen.add(cell.strip())

    def whole(self, cell: str) -> bool:
        cell = cell.strip()
        if cell.endswith((".", "!", "?")):
            return True
        return cell in self._seen and not any(
            other != cell and other.startswith(cell) for other in self._seen
        )


class _Lines:
    """The lines of a file, plain or gzipped, decoded one by one.

    Attributes:
        last: the latest line.
        open_end: it has no line break, so that it is the file's last.
    """

    def __init__(self, path: Path, error: type[LlavaRadError]) -> None:
        self.path = path
        self.error = error
        self.last = ""
        self.open_end = False
        self._number = 0
        self._end = 0  # bytes that were read
        self._waiting: deque[str] = deque()
        self._file = self._opened()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if not self._waiting:
            self._waiting.extend(self._read())
        if not self._waiting:
            raise StopIteration
        self.last = self._waiting.popleft()
        self.open_end = not self.last.endswith(("\n", "\r"))
        return self.last

    @property
    def position(self) -> int:
        """The byte at which the next line begins."""
        return self._end - sum(len(line.encode("utf-8")) for line in self._waiting)

    def seek(self, position: int) -> None:
        """Go on with the line that begins at a byte."""
        self._waiting.clear()
        try:
            self._end = self._file.seek(position)
        except Exception as problem:  # as in _read: a gzipped file is unpacked up to there
            raise self._damaged(problem) from problem

    def head(self) -> str:
        """The first line, which is still to come."""
        if not self._waiting:
            self._waiting.extend(self._read())
        return self._waiting[0] if self._waiting else ""

    def _opened(self) -> IO[bytes]:
        try:
            file = self.path.open("rb")
            if self.path.suffix.lower() != ".gz" and file.peek(2)[:2] != _GZIP:
                return file
            file.close()
            return cast(IO[bytes], gzip.open(self.path))
        except OSError as problem:
            raise self._damaged(problem) from problem

    def _read(self) -> list[str]:
        try:
            content = self._file.readline(_LONGEST_LINE)
        except Exception as problem:  # EOFError, zlib.error, BadGzipFile, OSError ...
            raise self._damaged(problem) from problem
        if not content:
            return []
        self._number += 1
        self._end += len(content)
        if len(content) >= _LONGEST_LINE:
            raise self.error(
                f"a line is longer than {_LONGEST_LINE:,} bytes",
                where=f"{one_line(str(self.path))}:{self._number}",
                remedy="Check that this is a text table",
                kind="bad_table",
            )
        text = decode(content, self.path, self.error, line=self._number)
        # Line ends of old Macs.
        return _LONE_RETURN.split(text) if "\r" in text.rstrip("\r\n") else [text]

    def _damaged(self, problem: Exception) -> LlavaRadError:
        return self.error(
            f"the table cannot be read ({why(problem)})",
            where=f"{one_line(str(self.path))}:{self._number + 1}",
            remedy="It is damaged or cut off: copy it again",
            kind="bad_table",
        )


def _as_text(value: Any) -> str:
    return "" if is_missing(value) else str(value).strip()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that the system cannot hold
        return False
