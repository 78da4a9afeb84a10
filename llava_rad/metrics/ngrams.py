"""Counts of n-grams over many texts at once, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llava_rad.metrics.tokens import Numbers

Integers = NDArray[np.int64]


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

    text: Integers
    gram: Integers
    count: Integers
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


def count_ngrams(
    first: Sequence[Numbers], second: Sequence[Numbers], orders: int
) -> Iterator[tuple[NgramCounts, NgramCounts]]:
    """Count the n-grams of two equally long lists of tokenised texts.

    Yields:
        For each order 1, 2, ... ``orders``, the counts of the first and of the second list.
    """
    texts = [*first, *second]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    tokens = np.concatenate(texts).astype(np.int64)
    vocabulary = int(tokens.max(initial=0)) + 1
    text_of = np.repeat(np.arange(len(texts)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))  # tokens to the end

    starts = np.arange(len(tokens))
    grams = tokens
    for order in range(1, orders + 1):
        if order > 1:
            longer = left[starts] >= order
            starts = starts[longer]
            joined = grams[longer] * vocabulary + tokens[starts + order - 1]
            _, grams = np.unique(joined, return_inverse=True)
        distinct = int(grams.max(initial=0)) + 1
        totals = np.maximum(lengths - order + 1, 0)
        split = len(first)
        in_first = text_of[starts] < split
        yield (
            _count(text_of[starts][in_first], grams[in_first], distinct, totals[:split]),
            _count(text_of[starts][~in_first] - split, grams[~in_first], distinct, totals[split:]),
        )


def _count(text: Integers, gram: Integers, distinct: int, totals: Integers) -> NgramCounts:
    key, count = np.unique(text * distinct + gram, return_counts=True)
    return NgramCounts(key // distinct, key % distinct, count, totals, key)
