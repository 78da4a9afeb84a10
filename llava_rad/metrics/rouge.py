"""ROUGE (Lin, ACL workshop 2004) in the two conventions of published tables.

``rouge``: ROUGE-1, -2, -L and -Lsum as ``rouge_score`` computes them: lower-cased letters and
digits, F with beta 1, a mean over pairs, in [0, 1]. ROUGE-Lsum matches line by line, ROUGE-L
ignores line breaks. The Porter stemmer is off unless asked for.

``rouge_l_coco``: ROUGE-L as the COCO caption evaluation (``pycocoevalcap`` 1.2) computes it: tokens
are what single spaces separate, case counts, F with beta 1.2, a mean over pairs, in [0, 1]. That
program reads captions of one line; here a line break, or a tab, with the spaces around it separates
tokens like one space.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from importlib.metadata import version

import numpy as np

from llava_rad.metrics.ngrams import match_ngrams
from llava_rad.metrics.result import (
    MetricResult,
    check_pairs,
    harmonic,
    mean_result,
    ratio,
    some_empty,
)
from llava_rad.metrics.tokens import Tokens

COCO_BETA = 1.2
_BREAKS = re.compile(r"[\t-\r\x1c-\x1e\x85\u2028\u2029]+")


def rouge(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    stemmer: bool = False,
    tokens: Tokens | None = None,
) -> MetricResult:
    """ROUGE-1, -2, -L and -Lsum F1 as ``rouge_score`` defines them, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        stemmer: reduce words of more than three letters to their Porter stem first.
        tokens: letters and digits, or their stems, remembered from other calls.

    Returns:
        Values ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: means of the pairs' values.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    from rouge_score import rouge_scorer

    check_pairs(predictions, references)
    tokens = tokens or Tokens(tokenize_letters(stemmer=stemmer))
    predicted, expected = tokens(predictions), tokens(references)
    predicted_length = np.array([len(text) for text in predicted])
    expected_length = np.array([len(text) for text in expected])

    values = {}
    for n, (matches, mine, theirs) in enumerate(match_ngrams(predicted, expected, 2), start=1):
        values[f"rouge{n}"] = harmonic(ratio(matches, mine), ratio(matches, theirs))
    pairs = zip(predicted, expected, strict=True)
    common = np.array([lcs_length(p.tolist(), e.tolist()) for p, e in pairs])
    values["rougeL"] = harmonic(ratio(common, predicted_length), ratio(common, expected_length))

    # On single lines the summary-level score is ROUGE-L; the rest is left to the reference code.
    values["rougeLsum"] = values["rougeL"].copy()
    by_line = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=stemmer)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if "\n" in prediction or "\n" in reference:
            score = by_line.score(reference, prediction)["rougeLsum"]
            values["rougeLsum"][i] = score.fmeasure

    facts = {
        "scorer": f"llava_rad (rouge_score {version('rouge_score')}'s definition)",
        "beta": 1,
        "stemmer": "Porter" if stemmer else "none",
        "range": "0-1",
    }
    return mean_result("rouge", values, facts=facts)


def tokenize_letters(*, stemmer: bool) -> Callable[[str], list[str]]:
    """rouge_score's tokenizer: lower-cased letters and digits, or the Porter stems of words."""
    from rouge_score.tokenize import tokenize

    stems = CachedStemmer() if stemmer else None
    return lambda text: tokenize(text, stems)


def rouge_l_coco(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """ROUGE-L with beta 1.2 as the COCO caption evaluation computes it, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: what single spaces separate, remembered from other calls.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    tokens = tokens or Tokens(split_at_spaces)
    precision, recall = [], []
    for predicted, expected in zip(tokens(predictions), tokens(references), strict=True):
        common = lcs_length(predicted.tolist(), expected.tolist())
        precision.append(common / len(predicted))
        recall.append(common / len(expected))
    p, r = np.array(precision), np.array(recall)
    value = ratio((1 + COCO_BETA**2) * p * r, r + COCO_BETA**2 * p)
    # Splitting "" or " " gives empty tokens, which would match each other.
    value[some_empty(predictions, references)] = 0.0
    facts = {
        "scorer": "llava_rad (pycocoevalcap's definition)",
        "beta": COCO_BETA,
        "tokens": "single spaces",
        "range": "0-1",
    }
    return mean_result("rouge_l_coco", {"rougeL": value}, facts=facts)


def split_at_spaces(text: str) -> list[str]:
    """What single spaces separate, empty tokens included."""
    return _one_line(text).split(" ")


def _one_line(text: str) -> str:
    """The text with each line break (or tab), and the spaces around it, as one space."""
    first, *others = _BREAKS.split(text)
    if not others:
        return text
    *between, last = others
    lines = [first.rstrip(" "), *(line.strip(" ") for line in between), last.lstrip(" ")]
    return " ".join(line for line in lines if line)


def lcs_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence of two token lists.

    One row of the dynamic-programming table is one integer, a bit for each token of ``first``
    (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    positions: dict[Hashable, int] = {}
    for i, token in enumerate(first):
        positions[token] = positions.get(token, 0) | (1 << i)
    everything = (1 << len(first)) - 1
    row = everything
    for token in second:
        matched = row & positions.get(token, 0)
        row = (row + matched) | (row - matched)
    return len(first) - (row & everything).bit_count()


class CachedStemmer:
    """The Porter stemmer of NLTK, each word stemmed once."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._porter = PorterStemmer()
        self._stems: dict[str, str] = {}

    def stem(self, word: str) -> str:
        """The stem of a lower-case word."""
        if word not in self._stems:
            self._stems[word] = self._porter.stem(word)
        return self._stems[word]
