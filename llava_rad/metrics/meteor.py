"""METEOR (Banerjee and Lavie, ACL workshop 2005) as NLTK computes it, in [0, 1].

Words are aligned by equal spelling, then by equal Porter stem; recall counts nine times as much as
precision (alpha 0.9), and the number of contiguous chunks is penalised (beta 3, gamma 0.5). Texts
are lower-cased and split by NLTK's word tokenizer without sentence splitting.

``meteor`` stops there and needs no data. ``meteor_wordnet`` then also aligns synonyms by WordNet,
as ``evaluate``'s module of that name does. Neither equals METEOR 1.5, the Java program inside
``pycocoevalcap`` behind many published tables, which adds paraphrase tables, function-word weights
and tuned parameters: compare with those only by running that program.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from llava_rad.errors import WeightsError
from llava_rad.metrics.result import MetricResult, check_pairs, is_empty, mean_result
from llava_rad.metrics.rouge import CachedStemmer
from llava_rad.metrics.tokens import Tokens


def meteor(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """METEOR by spelling and stem, without synonyms: the mean over pairs, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: NLTK's words, remembered from other calls.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    return _meteor("meteor", predictions, references, _NoSynonyms(), tokens)


def meteor_wordnet(
    predictions: Sequence[str], references: Sequence[str], *, tokens: Tokens | None = None
) -> MetricResult:
    """METEOR by spelling, stem and WordNet synonym: the mean over pairs, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        tokens: NLTK's words, remembered from other calls.

    Raises:
        WeightsError: NLTK's WordNet data is not on this machine.
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise WeightsError(
            "NLTK's WordNet data is not on this machine",
            where="meteor_wordnet",
            remedy="Fetch it with: python -m nltk.downloader wordnet",
            kind="missing",
        ) from error
    return _meteor("meteor_wordnet", predictions, references, wordnet, tokens)


def tokenize_words() -> Callable[[str], list[str]]:
    """NLTK's word tokenizer, without its sentence splitting."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize


def _meteor(
    name: str,
    predictions: Sequence[str],
    references: Sequence[str],
    wordnet: Any,
    tokens: Tokens | None,
) -> MetricResult:
    from nltk.translate.meteor_score import single_meteor_score

    check_pairs(predictions, references)
    stemmer = CachedStemmer()
    tokens = tokens or Tokens(tokenize_words())
    predicted, expected = tokens(predictions), tokens(references)
    words = tokens.spellings()
    values = [
        0.0
        if is_empty(prediction) or is_empty(reference)
        else single_meteor_score(
            [words[i] for i in theirs.tolist()],
            [words[i] for i in mine.tolist()],
            stemmer=stemmer,
            wordnet=wordnet,
        )
        for prediction, reference, mine, theirs in zip(
            predictions, references, predicted, expected, strict=True
        )
    ]
    facts = {
        "scorer": f"nltk {version('nltk')} single_meteor_score",
        "alignment": "spelling, Porter stem" + (", WordNet" if name.endswith("wordnet") else ""),
        "parameters": "alpha 0.9, beta 3, gamma 0.5",
        "range": "0-1",
    }
    return mean_result(name, {"meteor": values}, facts=facts)


class _NoSynonyms:
    """Stands where NLTK expects WordNet and knows no synonym of any word."""

    def synsets(self, word: str) -> list[Any]:
        return []
