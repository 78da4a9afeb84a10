"""Boxes that data sets give in pixels of a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llava_rad.boxes import Box
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import parse_number
from llava_rad.data.finding_box import FindingBox
from llava_rad.errors import DataError, ImageError
from llava_rad.readers import Row

#: Left, upper, right and lower edge.
Edges = tuple[float, float, float, float]


def edges_of(row: Row, columns: Sequence[str], *, sized: bool = False) -> Edges | None:
    """The edges of a box in a row of a table; None where a cell holds no number.

    Args:
        row: of the table.
        columns: of left and upper edge, then right and lower edge.
        sized: the last two are width and height instead.
    """
    numbers = [parse_number(row[column]) for column in columns]
    left, upper, right, lower = numbers
    if left is None or upper is None or right is None or lower is None:
        return None
    return (left, upper, left + right, upper + lower) if sized else (left, upper, right, lower)


def boxes_in_pixels(
    path: str | Path,
    rows: Sequence[tuple[str, Edges, str | None]],
    log: ConversionLog,
    *,
    sentence_of: Callable[[str], str | None] = lambda _: None,
    size: tuple[float, float] | None = None,
) -> tuple[FindingBox, ...]:
    """Boxes that a data set gives in pixels of a picture.

    A box that is none on the picture is left out as ``bad_box``, all of a picture whose header
    cannot be read as ``boxes_without_size``.

    Args:
        path: of the picture; its header says how large it is.
        rows: finding, left, upper, right and lower edge, and reader.
        log: where boxes that are left out are recorded.
        sentence_of: the sentence that says a finding.
        size: width and height that the pixels are of, where the data set says.
    """
    if not rows:
        return ()
    size = size or size_of_picture(path, log)
    if size is None:
        return ()
    found = []
    for finding, edges, reader in rows:
        try:
            box = Box.of_pixels(*edges, width=size[0], height=size[1])
        except DataError:
            log.leave_out("bad_box", Path(path).stem)
            continue
        found.append(FindingBox(finding, box, sentence_of(finding), reader))
    return tuple(found)


def size_of_picture(path: str | Path, log: ConversionLog) -> tuple[float, float] | None:
    """Width and height of a picture whose boxes are in pixels, from its header.

    None where that cannot be read, which leaves the boxes out as ``boxes_without_size``.
    """
    from llava_rad.images import geometry_of  # heavier than most adapters need

    try:
        height, width = geometry_of(path).stored
    except ImageError:
        log.leave_out("boxes_without_size", Path(path).stem)
        return None
    return width, height
