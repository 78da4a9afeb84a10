"""Counts of n-grams over many texts at once, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.metrics.tokens import Numbers

Integers = NDArray[np.int64]

_PAIRS_AT_ONCE = 2048  # bounds the memory where pairs are counted apart


@dataclass(frozen=True)
class NgramCounts:
    """How often each distinct n-gram of one order occurs in each of a list of texts.

    Attributes:
        text: index of the text [entries].
        gram: index of the n-gram [entries], shared by the two lists that were counted together.
        count: occurrences of the n-gram in the text [entries].
        total: n-grams in each text, repetitions included [texts].
        key: text and n-gram as one sorted number [entries].
    """

    text: NDArray[np.int32]
    gram: NDArray[np.int32]
    count: NDArray[np.int32]
    total: Integers
    key: Integers

    def shared_with(self, other: "NgramCounts") -> tuple[Integers, Integers]:
        """Entries of this and of the other list with the same text index and n-gram."""
        _, mine, theirs = np.intersect1d(
            self.key, other.key, assume_unique=True, return_indices=True
        )
        return mine, theirs

    def matches(self, other: "NgramCounts") -> Integers:
        """Clipped matches between the two texts of each pair [texts]."""
        mine, theirs = self.shared_with(other)
        clipped = np.minimum(self.count[mine], other.count[theirs])
        matched = np.bincount(self.text[mine], weights=clipped, minlength=len(self.total))
        return matched.astype(np.int64)


def match_ngrams(
    first: Sequence[Numbers], second: Sequence[Numbers], orders: int
) -> list[tuple[Integers, Integers, Integers]]:
    """Compare the n-grams of the two texts of each pair.

    Returns:
        For each order 1, 2, ... ``orders``: clipped matches, n-grams of the first and of the
        second text, [pairs] each.
    """
    parts = []
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        parts.append(
            [
                (mine.matches(theirs), mine.total, theirs.total)
                for mine, theirs in count_ngrams(first[part], second[part], orders)
            ]
        )
    found = []
    for order in range(orders):
        columns = zip(*(part[order] for part in parts), strict=True)
        matches, in_first, in_second = map(np.concatenate, columns)
        found.append((matches, in_first, in_second))
    return found


def count_ngrams(
    first: Sequence[Numbers], second: Sequence[Numbers], orders: int
) -> Iterator[tuple[NgramCounts, NgramCounts]]:
    """Count the n-grams of two equally long lists of tokenised texts.

    Yields:
        For each order 1, 2, ... ``orders``, the counts of the first and of the second list.
    """
    texts = [*first, *second]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    tokens = np.concatenate(texts)
    vocabulary = int(tokens.max(initial=0)) + 1
    places = np.arange(len(tokens), dtype=np.int32)
    text_of = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    left = np.repeat(np.cumsum(lengths, dtype=np.int32), lengths) - places  # tokens to the end

    starts, grams, split = places, tokens, len(first)
    for order in range(1, orders + 1):
        if order > 1:
            longer = left[starts] >= order
            starts = starts[longer]
            joined = grams[longer] * np.int64(vocabulary) + tokens[starts + order - 1]
            # np.unique's own inverse takes twice the memory.
            grams = np.searchsorted(np.unique(joined), joined).astype(np.int32)
            del joined, longer
        distinct = int(grams.max(initial=0)) + 1
        totals = np.maximum(lengths - order + 1, 0)
        in_first = text_of[starts] < split
        yield (
            _count(text_of[starts][in_first], grams[in_first], distinct, totals[:split]),
            _count(text_of[starts][~in_first] - split, grams[~in_first], distinct, totals[split:]),
        )


def _count(
    text: NDArray[np.int32], gram: NDArray[np.int32], distinct: int, totals: Integers
) -> NgramCounts:
    key, count = np.unique(text * np.int64(distinct) + gram, return_counts=True)
    text, gram = (part.astype(np.int32) for part in np.divmod(key, distinct))
    return NgramCounts(text, gram, count.astype(np.int32), totals, key)
