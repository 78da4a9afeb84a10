"""RadCliQ (Yu et al., Patterns 2023): a linear model of the errors radiologists count.

It combines four scores of a pair - RadGraph F1 (the mean of entity F1 and relation F1, model
``radgraph``, capitals as they are), BERTScore F1 (``distilroberta-base``, layer 5, rescaled, runs
of spaces as one), the cosine of CheXbert embeddings and BLEU-2 (``bleu_rexrank``) - each
standardised. The constants are those of the released models of ``CXR-Report-Metric``.

``radcliq_v0`` is a number of errors: linear regression on the radiologists' counts, which the
MAIRA papers print. ``radcliq_v1`` is a standardised number of errors, in which BLEU-2 weighs
nothing (4e-12); a negative value is better than the average report of the study's set. Of both,
lower is better. Tables that print 1/RadCliQ-v1 print the inverse of the mean.

``radgraph_radcliq`` is the first of the four scores on its own, which ReXrank prints as RadGraph.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from llava_rad.errors import MetricError
from llava_rad.metrics.annotator import Annotation, RadGraphAnnotator, package_version
from llava_rad.metrics.bertscore import BertScorer, bertscore
from llava_rad.metrics.bleu import bleu_rexrank
from llava_rad.metrics.chexbert import CheXbert, chexbert
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result

# RadGraph, BERTScore, CheXbert embedding, BLEU-2: means and scales of the training pairs, weights,
# and what is added. Read out of CXR-Report-Metric's files, version 0 of normalizer.pkl and
# composite_metric_model.pkl, version 1 of radcliq-v1.pkl.
_CONSTANTS = {
    "radcliq_v0": (
        np.array([0.5398376019082272, 0.6312549595, 0.7716797866672277, 0.4607372064809605]),
        np.array([0.3018344440559102, 0.2246695074614, 0.2475033380523, 0.3033667093609]),
        np.array([-0.4796252644863, -0.6762170542369, -0.4636657516175, 0.2165861905288]),
        1.641666666666666,
    ),
    "radcliq_v1": (
        np.array([0.53792312, 0.61757256, 0.76479421, 0.44738335]),
        np.array([0.30282584, 0.22430938, 0.25394391, 0.29892717]),
        np.array([-3.77083683e-01, -3.70300100e-01, -2.52616218e-01, 4.31504841e-12]),
        2.46655256e-10,
    ),
}
VERSIONS = tuple(_CONSTANTS)

BERTSCORE_MODEL, BERTSCORE_LAYER = "distilroberta-base", 5


class RadCliQParts:
    """The four scores that both versions combine; those of the last texts are remembered.

    Args:
        annotator: RadGraph, of the model type ``radgraph``.
        scorer: BERTScore's model, ``distilroberta-base`` at layer 5, rescaled.
        labeler: CheXbert.

    Raises:
        MetricError: a network is not the one the composite was fitted on.
    """

    def __init__(self, annotator: RadGraphAnnotator, scorer: BertScorer, labeler: CheXbert) -> None:
        fits = (
            annotator.model_type == "radgraph",
            Path(scorer.name).name == BERTSCORE_MODEL,
            scorer.layer == BERTSCORE_LAYER,
            scorer.baseline is not None,
        )
        if not all(fits):
            raise MetricError(
                "RadCliQ was fitted on the model 'radgraph' and on rescaled BERTScore of "
                f"{BERTSCORE_MODEL}, layer {BERTSCORE_LAYER}",
                where="radcliq",
                remedy="Give those networks",
                kind="wrong_network",
            )
        self.annotator, self.scorer, self.labeler = annotator, scorer, labeler
        self._last: tuple[list[str], list[str], Floats] | None = None

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> Floats:
        """RadGraph F1, BERTScore, cosine and BLEU-2 of each pair [pairs, 4]."""
        texts = [single_spaces(text) for text in predictions]
        true = [single_spaces(text) for text in references]
        if self._last is None or self._last[:2] != (texts, true):
            columns = (
                radgraph_radcliq(texts, true, annotator=self.annotator).per_pair["f1"],
                bertscore(texts, true, scorer=self.scorer).per_pair["f1"],
                chexbert(texts, true, labeler=self.labeler).per_pair["embedding_similarity"],
                bleu_rexrank(texts, true).per_pair["bleu_2"],
            )
            self._last = (texts, true, np.column_stack(columns))
        return self._last[2]


def radcliq(
    version: str, predictions: Sequence[str], references: Sequence[str], *, parts: RadCliQParts
) -> MetricResult:
    """RadCliQ of each pair and its mean; lower is better.

    Args:
        version: ``"radcliq_v0"`` or ``"radcliq_v1"``; also the name of the value.
        predictions: generated texts.
        references: true texts, in the same order.
        parts: computes the four scores.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    values = composite(version, *parts(predictions, references).T)
    facts = {
        "scorer": "llava_rad (CXR-Report-Metric's constants)",
        "better": "lower",
        "range": "errors" if version == "radcliq_v0" else "standardised errors",
    }
    return mean_result(version, {version: values}, facts=facts)


def composite(
    version: str,
    radgraph: ArrayLike,
    bertscore: ArrayLike,
    similarity: ArrayLike,
    bleu_2: ArrayLike,
) -> Floats:
    """RadCliQ of each pair [pairs] from its four scores."""
    means, scales, weights, added = _CONSTANTS[version]
    columns = np.column_stack([radgraph, bertscore, similarity, bleu_2])
    return (columns - means) / scales @ weights + added


def radgraph_radcliq(
    predictions: Sequence[str], references: Sequence[str], *, annotator: RadGraphAnnotator
) -> MetricResult:
    """F1 of RadGraph's entities and of its relations, and their mean, in [0, 1].

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        annotator: RadGraph, of the model type ``radgraph`` for published numbers.

    Returns:
        Values ``f1`` (the mean of the other two), ``entity_f1`` and ``relation_f1``: means of the
        pairs' values. Words, labels and capitals count; what neither text has scores 0.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    annotator.prepare([*predictions, *references])
    entities, relations = [], []
    for mine, theirs in zip(annotator.each(predictions), annotator.each(references), strict=True):
        entities.append(_f1(_entities(mine), _entities(theirs)))
        relations.append(_f1(_relations(mine), _relations(theirs)))
    facts = {
        "scorer": f"radgraph {package_version()}, F1 of llava_rad (CXR-Report-Metric's definition)",
        "model": annotator.model_type,
        "checkpoint_sha256": annotator.checkpoint_hash,
        "casing": "published",
        "range": "0-1",
    }
    both = (np.array(entities) + np.array(relations)) / 2
    values = {"f1": both, "entity_f1": entities, "relation_f1": relations}
    return mean_result("radgraph_radcliq", values, facts=facts)


def single_spaces(text: str) -> str:
    """A text with each run of spaces as one, as CXR-Report-Metric reads it for BERTScore."""
    return re.sub(" +", " ", text)


def _f1(mine: set[tuple[str, ...]], theirs: set[tuple[str, ...]]) -> float:
    return 2 * len(mine & theirs) / (len(mine) + len(theirs)) if mine or theirs else 0.0


def _entities(annotation: Annotation) -> set[tuple[str, ...]]:
    return {(e["tokens"], e["label"]) for e in annotation["entities"].values()}


def _relations(annotation: Annotation) -> set[tuple[str, ...]]:
    entities = annotation["entities"]
    return {
        (e["tokens"], e["label"], entities[to]["tokens"], entities[to]["label"], relation)
        for e in entities.values()
        for relation, to in e["relations"]
    }
