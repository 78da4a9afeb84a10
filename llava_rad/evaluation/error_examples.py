"""A few studies of a cell, with the sentences that speak of its observation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import cut
from llava_rad.metrics.rules import label_report
from llava_rad.observations import OBSERVATIONS, Mention
from llava_rad.sentences import sentence_spans
from llava_rad.statistics import Units

MOST = 3
"""Studies of one list."""
LONGEST = 400
"""Characters of one text."""
_LOOKED_AT = 1000  # studies of a cell among which those of different patients are looked for


@dataclass(frozen=True)
class Example:
    """One study.

    Attributes:
        id: of the study.
        texts: for each text of the study what it says of the observation.
    """

    id: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class ExampleList:
    """Some of the studies of a cell.

    Attributes:
        examples: :data:`MOST` at most.
        count: of all studies of the cell.
    """

    examples: tuple[Example, ...]
    count: int


class Examples:
    """Finds examples in the texts of some studies.

    Args:
        ids: of the studies.
        units: whose each study is.
        texts: lists of texts of these studies, such as the references and the predictions.
    """

    def __init__(self, ids: Sequence[str], units: Units, *texts: Sequence[str]) -> None:
        self._ids, self._units, self._texts = ids, units, texts

    def of(
        self, observation: int, marked: NDArray[np.bool_], studies: NDArray[np.int64]
    ) -> ExampleList:
        """The first studies that are marked, of different patients as far as there are.

        Args:
            observation: its place among the 14.
            marked: whether each study belongs to the list [studies of the file].
            studies: places of the studies to look among [some].
        """
        chosen = studies[marked[studies]]
        examples = tuple(
            Example(self._ids[i], tuple(said_of(observation, texts[i]) for texts in self._texts))
            for i in self._varied(chosen[:_LOOKED_AT])
        )
        return ExampleList(examples, len(chosen))

    def _varied(self, studies: NDArray[np.int64]) -> list[int]:
        """The first study of each patient, then the others."""
        _, firsts = np.unique(self._units.index[studies], return_index=True)
        others = np.setdiff1d(np.arange(len(studies)), firsts)
        return [int(studies[i]) for i in (*np.sort(firsts), *others)][:MOST]


@functools.lru_cache(maxsize=20_000)
def said_of(observation: int, text: str) -> str:
    """The sentences of a text that chexpert-rules take to speak of an observation.

    All of the text where none does; either is cut at :data:`LONGEST` characters.
    """
    said = [s for s in _sentences(text) if _mentions(s)[observation] != Mention.BLANK]
    # Every harmless sentence by itself reads as No Finding.
    whole = OBSERVATIONS[observation] == "No Finding" or not said
    return cut(" ".join(text.split()) if whole else " ".join(said), LONGEST)


@functools.lru_cache(maxsize=20_000)
def _sentences(text: str) -> tuple[str, ...]:
    return tuple(text[start:end] for start, end in sentence_spans(text))


@functools.lru_cache(maxsize=20_000)
def _mentions(sentence: str) -> tuple[Mention, ...]:
    return tuple(label_report(sentence))
