"""BLEU-1 to BLEU-4 (Papineni et al., ACL 2002) in the conventions of published tables.

``coco``: tokens are what white space separates, case counts, no smoothing, values in [0, 1]; the
scorer of the COCO caption evaluation (``pycocoevalcap`` 1.2), which most report-generation papers
use, usually on texts they lower-cased and tokenised before.

``sacrebleu``: the 13a tokenizer and exponential smoothing of ``sacrebleu`` (Post, WMT 2018), case
counts, values in [0, 100]. A value for one pair uses sacrebleu's effective order: a text shorter
than four tokens is judged by the n-grams it can have. The corpus value has no such rule: where no
text of the corpus has a 4-gram, BLEU-4 is 0 whatever the texts say.

``rexrank``: BLEU-2 as ReXrank prints it and RadCliQ takes it (``CXR-Report-Metric``, whose BLEU is
``fast_bleu`` 0.0.90): lower-cased, a space before each full stop, tokens between spaces; the mean
of the reports' own values in [0, 1]. A report with words but no pair of words in common counts a
tenth of one match (NLTK's first smoothing), one without a word in common is 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llava_rad.metrics.ngrams import match_ngrams
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result
from llava_rad.metrics.tokens import Numbers, Tokens

ORDERS = 4
# The two constants that keep pycocoevalcap's ratios finite.
_TINY, _SMALL = 1e-15, 1e-9
# What counts as matched where nothing does (NLTK's smoothing function 1).
_ALMOST_NONE = 0.1


def bleu_coco(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """BLEU-1..4 as the COCO caption evaluation computes it, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: what white space separates, remembered from other calls.

    Returns:
        Values ``bleu_1`` to ``bleu_4``, of the corpus and of each pair.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    tokens = tokens or Tokens(str.split)
    sums = _statistics(tokens(predictions), tokens(references))
    facts = {"scorer": "llava_rad (pycocoevalcap's definition)", "tokens": "white space"}
    notes = _notes(sums, of_the_corpus=False)
    return MetricResult("bleu_coco", _coco(sums), sums, _coco, {**facts, "range": "0-1"}, notes)


def bleu_sacrebleu(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """BLEU-1..4 as ``sacrebleu`` computes it with its defaults, in [0, 100].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: the 13a tokens, remembered from other calls.

    Returns:
        Values ``bleu_1`` to ``bleu_4``; those of the corpus without, those of each pair with
        effective order.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    import sacrebleu

    check_pairs(predictions, references)
    tokens = tokens or Tokens(tokenize_13a())
    sums = _statistics(tokens(predictions), tokens(references))
    facts: dict[str, Any] = {
        "scorer": "llava_rad (sacrebleu's definition)",
        "tokens": f"13a, by sacrebleu {sacrebleu.__version__}",
        "case": "mixed",
        "smoothing": "exponential",
        "effective order": "of pairs, not of the corpus",
        "range": "0-100",
    }
    per_pair = _sacrebleu(sums, effective_order=True)
    notes = _notes(sums, of_the_corpus=True)
    return MetricResult("bleu_sacrebleu", per_pair, sums, _sacrebleu, facts, notes)


def tokenize_13a() -> Callable[[str], list[str]]:
    """Sacrebleu's 13a tokenizer."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    return lambda text: tokenize(text.rstrip()).split()


def bleu_rexrank(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """BLEU-2 of each pair and its mean, as ReXrank computes it, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: lower-cased, between spaces, remembered from other calls.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.

    Example:
        >>> from llava_rad.metrics import bleu_rexrank
        >>> round(bleu_rexrank(["No effusion."], ["no effusion."]).values["bleu_2"], 3)
        1.0
    """
    check_pairs(predictions, references)
    tokens = tokens or Tokens(split_rexrank)
    sums = _statistics(tokens(predictions), tokens(references))
    matches, guesses = sums[:, :2], np.maximum(sums[:, ORDERS : ORDERS + 2], 1)
    predicted, expected = sums[:, -2], sums[:, -1]
    smoothed = np.where(matches > 0, matches, _ALMOST_NONE) / guesses
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        penalty = np.where(predicted > expected, 1.0, np.exp(1 - expected / predicted))
        value = np.where(matches[:, 0] > 0, penalty * np.sqrt(smoothed.prod(axis=1)), 0.0)
    facts = {
        "scorer": "llava_rad (CXR-Report-Metric's definition, fast_bleu 0.0.90)",
        "tokens": "lower-cased, ' .' for '.', between spaces",
        "smoothing": "0.1 of a match where no pair of words matches",
        "level": "mean of reports",
        "range": "0-1",
    }
    return mean_result("bleu_rexrank", {"bleu_2": value}, facts=facts)


def split_rexrank(text: str) -> list[str]:
    """CXR-Report-Metric's tokens: other white space than spaces is part of a token."""
    return [token for token in text.lower().replace(".", " .").split(" ") if token]


def _statistics(predictions: list[Numbers], references: list[Numbers]) -> Floats:
    """Columns: 4 matches, 4 n-grams of the prediction, lengths of prediction and reference."""
    matches, guesses, _ = zip(*match_ngrams(predictions, references, ORDERS), strict=True)
    lengths = [[len(text) for text in predictions], [len(text) for text in references]]
    return np.column_stack([*matches, *guesses, *lengths]).astype(np.float64)


def _notes(sums: Floats, *, of_the_corpus: bool) -> tuple[str, ...]:
    guesses = sums[:, ORDERS : 2 * ORDERS].sum(axis=0)
    orders = [f"BLEU-{n + 1}" for n in range(ORDERS) if guesses[n] == 0]
    if not orders:
        return ()
    rule = "0 by definition" if of_the_corpus else "close to 0 by definition"
    return (f"too short: no prediction is long enough for {', '.join(orders)}, which is {rule}",)


def _coco(totals: Floats) -> dict[str, Floats]:
    predicted, expected = totals[..., -2], totals[..., -1]
    length_ratio = (predicted + _TINY) / (expected + _SMALL)
    penalty = np.where(length_ratio < 1, np.exp(np.minimum(1 - 1 / length_ratio, 0)), 1.0)
    values, product = {}, np.ones(totals.shape[:-1])
    for n in range(ORDERS):
        product = product * (totals[..., n] + _TINY) / (totals[..., ORDERS + n] + _SMALL)
        values[f"bleu_{n + 1}"] = product ** (1 / (n + 1)) * penalty
    return values


def _sacrebleu(totals: Floats, *, effective_order: bool = False) -> dict[str, Floats]:
    matches, guesses = totals[..., :ORDERS], totals[..., ORDERS : 2 * ORDERS]
    predicted, expected = totals[..., -2], totals[..., -1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        penalty = np.where(predicted < expected, np.exp(1 - expected / predicted), 1.0)
        # Exponential smoothing: the k-th order without a match counts 1 / 2^k matches.
        misses = np.cumsum((matches == 0) & (guesses > 0), axis=-1)
        smoothed = np.where(matches > 0, matches, np.where(guesses > 0, 0.5**misses, 0.0))
        logs = np.log(smoothed / guesses)  # nan where there are no such n-grams
        usable = guesses > 0
        sums = np.cumsum(np.where(usable, logs, 0.0), axis=-1)
        values = {}
        for n in range(ORDERS):
            orders = np.maximum(usable[..., : n + 1].sum(axis=-1), 1) if effective_order else n + 1
            value = 100 * penalty * np.exp(sums[..., n] / orders)
            scored = matches[..., : n + 1].any(axis=-1)
            if not effective_order:
                scored = scored & usable[..., n]
            values[f"bleu_{n + 1}"] = np.where(scored, value, 0.0)
    return values
