"""Run lengths of masks, written pixel by pixel: what a decoder is compared with."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray


def relative_runs(mask: NDArray[Any]) -> str:
    """As SIIM-ACR's organisers describe them: gaps and lengths, column by column."""
    runs, end = [], 0
    for start, length in _runs(mask.T.ravel()):
        runs += [start - end, length]
        end = start + length
    return " ".join(map(str, runs))


def absolute_runs(mask: NDArray[Any]) -> str:
    """As CheXmask writes them: starts from 1 and lengths, row by row."""
    return " ".join(f"{start + 1} {length}" for start, length in _runs(mask.ravel()))


def _runs(pixels: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """First pixel and length of each run."""
    place = 0
    for inside, group in itertools.groupby(map(bool, pixels)):
        length = len(list(group))
        if inside:
            yield place, length
        place += length
