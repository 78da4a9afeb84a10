"""Masks from run lengths, in the two ways that data sets write them.

- SIIM-ACR and CANDID-PTX: ``gap length gap length ...``, each gap counted from the end of the run
  before, column by column over 1024 x 1024 pixels; ``-1`` for an empty mask;
- CheXmask: ``start length start length ...``, each start counted from the image's first pixel,
  which is 1, row by row over the ``Height`` and ``Width`` that stand in the row.
"""

import numpy as np

from llava_rad.data.mask_rows import MaskRows
from llava_rad.errors import DataError
from llava_rad.outlines import Mask
from llava_rad.readers import Row

SIDE = 1024  # pixels, of the masks whose rows do not say
_LARGEST = 2**28  # pixels; a damaged cell shall not fill the memory


def read_mask_rows(place: MaskRows) -> Mask:
    """The mask in rows of a table, all regions of it: bool [height, width].

    Raises:
        DataError: see :meth:`MaskRows.read` and :func:`decode_runs`; or a size is none.
    """
    rows = place.read()
    where = f"{place.table}, byte {place.offsets[0]}"
    absolute = {"Height", "Width"} <= rows[0].keys()
    shape = _shape(rows[0], where) if absolute else (SIDE, SIDE)
    mask = np.zeros(shape, bool)
    for row in rows:
        mask |= decode_runs(row[place.column], shape, absolute=absolute, where=where)
    return mask


def decode_runs(
    text: str, shape: tuple[int, int], *, absolute: bool = False, where: object = None
) -> Mask:
    """A mask from run lengths.

    Args:
        text: pairs of numbers; ``-1`` for an empty mask.
        shape: height and width.
        absolute: starts from the image's first pixel, row by row, instead of gaps, column by
            column.
        where: for messages.

    Returns:
        bool [height, width].

    Raises:
        DataError: the runs are not numbers in pairs, or reach outside the image.

    Example:
        >>> from llava_rad.probing.run_lengths import decode_runs
        >>> decode_runs("2 1 1 2", (2, 3)).astype(int).tolist()
        [[0, 1, 1], [0, 0, 1]]
        >>> decode_runs("2 2 6 1", (2, 3), absolute=True).astype(int).tolist()
        [[0, 1, 1], [0, 0, 1]]
    """
    flat = np.zeros(shape[0] * shape[1], bool)
    try:
        numbers = [int(part) for part in text.split()] if text.strip() != "-1" else []
        pairs = np.array(numbers).reshape(-1, 2)
    except ValueError as error:
        raise DataError(
            f"not run lengths ({error})", where=where, remedy="Restore the row", kind="bad_runs"
        ) from error
    lengths = pairs[:, 1]
    starts = pairs[:, 0] - 1 if absolute else pairs.sum(axis=1).cumsum() - lengths
    ends = starts + lengths
    # Each number alone first: sums of huge ones wrap around.
    wrong = (pairs < 0) | (pairs > flat.size)
    if wrong.any() or (starts < 0).any() or (ends > flat.size).any():
        raise DataError(
            f"the runs reach outside {shape[0]} x {shape[1]} pixels",
            where=where,
            remedy="Restore the row",
            kind="bad_runs",
        )
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    return flat.reshape(shape) if absolute else flat.reshape(shape[1], shape[0]).T


def _shape(row: Row, where: str) -> tuple[int, int]:
    sizes = [row["Height"].removesuffix(".0"), row["Width"].removesuffix(".0")]
    if all(size.isascii() and size.isdigit() for size in sizes):
        height, width = map(int, sizes)
        if 0 < height * width <= _LARGEST:
            return height, width
    raise DataError(
        f"Height and Width of the mask are {sizes[0]!r} and {sizes[1]!r}",
        where=where,
        remedy="Restore the row",
        kind="bad_runs",
    )
