"""Temporal F1: words of change over time that two reports share, in [0, 1].

The temporal entity score of Zhang et al. (Libra, Findings of ACL 2025), which RadEval prints as
``temporal_f1``: the set of words of a list of 45 (Bannur et al., CVPR 2023: "new", "unchanged",
"worsening" ...) in each report, F1 of the two sets, mean of reports. Two reports without such words
agree: 1. A report of the reference without them and a prediction with some: 0.

The published program adds entities of Stanza's radiology model that are words of the list
themselves. Nearly all of these are found as words already, so no network runs here; a word glued to
another by a sign, as in "stable/unchanged", is read as two.
"""

import re
from collections.abc import Sequence

import numpy as np

from llava_rad.metrics.result import MetricResult, check_pairs, mean_result

# fmt: off
KEYWORDS = frozenset((
    "bigger", "change", "cleared", "constant", "decrease", "decreased", "decreasing", "elevated",
    "elevation", "enlarged", "enlargement", "enlarging", "expanded", "greater", "growing",
    "improved", "improvement", "improving", "increase", "increased", "increasing", "larger", "new",
    "persistence", "persistent", "persisting", "progression", "progressive", "reduced", "removal",
    "resolution", "resolved", "resolving", "smaller", "stability", "stable", "stably", "unaltered",
    "unchanged", "unfolded", "worse", "worsen", "worsened", "worsening",
))
# fmt: on
_WORD = re.compile(r"[^\W_]+")


def temporal_f1(predictions: Sequence[str], references: Sequence[str]) -> MetricResult:
    """F1 of the words of change of each pair, and its mean.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.

    Example:
        >>> from llava_rad.metrics import temporal_f1
        >>> temporal_f1(["New effusion, worse."], ["New effusion."]).values["f1"]
        0.6666666666666666
    """
    check_pairs(predictions, references)
    found = [
        (words_of_change(prediction), words_of_change(reference))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    values = [
        2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine or theirs else 1.0
        for mine, theirs in found
    ]
    facts = {
        "scorer": "llava_rad (RadEval's temporal_f1, without Stanza)",
        "words": len(KEYWORDS),
        "pairs_without_words": sum(not mine and not theirs for mine, theirs in found),
        "range": "0-1",
    }
    return mean_result("temporal_f1", {"f1": np.array(values)}, facts=facts)


def words_of_change(text: str) -> set[str]:
    """The words of the list in a text."""
    return set(_WORD.findall(text.lower())) & KEYWORDS
