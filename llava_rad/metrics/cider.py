"""CIDEr-D (Vedantam et al., CVPR 2015) with one reference for each prediction.

As ``pycocoevalcap`` 1.2 computes it: tokens are what white space separates, case counts; n-grams of
orders 1 to 4 are weighted by how few references hold them, clipped, compared by cosine, damped by a
Gaussian of the length difference (sigma 6), averaged over the orders and multiplied by 10, so in
[0, 10]. The weights come from the references of the same call: the value of a pair depends on its
corpus, and a corpus of one pair (or of equal references) scores 0 whatever its texts say.
"""

from collections.abc import Sequence

import numpy as np

from llava_rad.metrics.ngrams import NgramCounts, count_ngrams
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result, ratio
from llava_rad.metrics.tokens import Tokens

ORDERS = 4
SIGMA = 6.0


def cider(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """CIDEr-D of each pair and its mean, in [0, 10].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: what white space separates, remembered from other calls.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    pairs = len(predictions)
    tokens = tokens or Tokens(str.split)
    predicted, expected = tokens(predictions), tokens(references)

    similarity = np.zeros(pairs)
    for of_order in count_ngrams(predicted, expected, ORDERS):
        similarity += _similarity(*of_order, pairs)
        del of_order  # or it would stay while the next ones are counted

    # The published code measures length in bigrams.
    bigrams = [np.array([max(len(t) - 1, 0) for t in texts]) for texts in (predicted, expected)]
    damping = np.exp(-((bigrams[0] - bigrams[1]) ** 2) / (2 * SIGMA**2))
    values = 10 * damping * similarity / ORDERS

    notes = []
    if len(set(references)) == 1:
        notes.append("all references are equal, so every n-gram has weight 0 and CIDEr is 0")
    facts = {
        "scorer": "llava_rad (pycocoevalcap's CIDEr-D)",
        "tokens": "white space",
        "weights": "inverse document frequency in these references",
        "range": "0-10",
    }
    return mean_result("cider", {"cider": values}, facts=facts, notes=notes)


def _similarity(mine: NgramCounts, theirs: NgramCounts, pairs: int) -> Floats:
    """Cosine of the two texts of each pair, over n-grams weighted by their rarity [pairs]."""
    grams = 1 + max(mine.gram.max(initial=0), theirs.gram.max(initial=0))
    holders = np.bincount(theirs.gram, minlength=grams)  # references that hold each n-gram
    rarity = np.log(pairs) - np.log(np.maximum(holders, 1))
    weight, true_weight = mine.count * rarity[mine.gram], theirs.count * rarity[theirs.gram]
    norm = np.sqrt(np.bincount(mine.text, weights=weight**2, minlength=pairs))
    true_norm = np.sqrt(np.bincount(theirs.text, weights=true_weight**2, minlength=pairs))
    i, j = mine.shared_with(theirs)
    products = np.minimum(weight[i], true_weight[j]) * true_weight[j]
    dots = np.bincount(mine.text[i], weights=products, minlength=pairs)
    return ratio(dots, norm * true_norm)
