"""The tokens of texts as numbers, each distinct text read once by a tokenizer."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int32]
"""The tokens of one text [tokens], each a number that stands for one spelling."""

_Read = TypeVar("_Read")


def read_once(
    read: Callable[[str], _Read], texts: Iterable[str], known: dict[str, _Read]
) -> list[_Read]:
    """What ``read`` makes of each text; ``known`` keeps it, by text, for this and later calls."""
    readings = []
    for text in texts:
        if text not in known:
            known[text] = read(text)
        readings.append(known[text])
    return readings


class Tokens:
    """The tokens of texts by one tokenizer, which remembers the texts it has read.

    Scores compare the same references with several lists of texts, and baselines give one text to
    all of them: splitting them again each time would take most of the time of a score. A text
    takes about four bytes a token here, not a string.

    Args:
        tokenize: splits a text into its tokens.

    Example:
        >>> tokens = Tokens(str.split)
        >>> (first,), (second,) = tokens(["no effusion"]), tokens(["effusion"])
        >>> bool(first[1] == second[0])
        True
    """

    def __init__(self, tokenize: Callable[[str], Iterable[str]]) -> None:
        self._tokenize = tokenize
        self._numbers: dict[str, int] = {}
        self._known: dict[str, Numbers] = {}

    def __call__(self, texts: Sequence[str]) -> list[Numbers]:
        """The tokens of each text."""
        return read_once(self._read, texts, self._known)

    @property
    def remembered(self) -> int:
        """How many texts are remembered."""
        return len(self._known)

    def spellings(self) -> Sequence[str]:
        """The spelling of each number."""
        return list(self._numbers)

    def _read(self, text: str) -> Numbers:
        numbers = self._numbers
        tokens = self._tokenize(text)
        return np.array([numbers.setdefault(t, len(numbers)) for t in tokens], dtype=np.int32)
