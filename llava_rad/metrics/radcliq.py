"""RadCliQ-v1 (Yu et al., Patterns 2023): a linear model of the errors radiologists count.

It combines four scores of a pair - RadGraph F1 (the mean of entity F1 and relation F1, model
``radgraph``), BERTScore F1 (``distilroberta-base``, layer 5, rescaled), the cosine of CheXbert
embeddings and BLEU-2 - each standardised, into a standardised number of errors: lower is better,
and a negative value is better than the average report of the study's set. The constants are those
of the published model; BLEU-2's weight in it is 4e-12, so the corpus' convention for BLEU does not
matter. Tables that print 1/RadCliQ-v1 print the inverse of this value's mean.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from llava_rad.errors import MetricError
from llava_rad.metrics.annotator import Annotation, RadGraphAnnotator
from llava_rad.metrics.bertscore import BertScorer, bertscore
from llava_rad.metrics.bleu import bleu_coco
from llava_rad.metrics.chexbert import CheXbert, chexbert
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result

# RadGraph, BERTScore, CheXbert embedding, BLEU-2.
_MEANS = np.array([0.53792312, 0.61757256, 0.76479421, 0.44738335])
_SCALES = np.array([0.30282584, 0.22430938, 0.25394391, 0.29892717])
_WEIGHTS = np.array([-3.77083683e-01, -3.70300100e-01, -2.52616218e-01, 4.31504841e-12])
_INTERCEPT = 2.46655256e-10

BERTSCORE_MODEL, BERTSCORE_LAYER = "distilroberta-base", 5


def radcliq_v1(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    annotator: RadGraphAnnotator,
    scorer: BertScorer,
    labeler: CheXbert,
) -> MetricResult:
    """RadCliQ-v1 of each pair and its mean; lower is better.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        annotator: RadGraph, of the model type ``radgraph``.
        scorer: BERTScore's model, ``distilroberta-base`` at layer 5, rescaled.
        labeler: CheXbert.

    Raises:
        MetricError: a network is not the one the composite was fitted on, or the pairs are not two
            equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    fits = (
        annotator.model_type == "radgraph",
        Path(scorer.name).name == BERTSCORE_MODEL,
        scorer.layer == BERTSCORE_LAYER,
        scorer.baseline is not None,
    )
    if not all(fits):
        raise MetricError(
            "RadCliQ-v1 was fitted on the model 'radgraph' and on rescaled BERTScore of "
            f"{BERTSCORE_MODEL}, layer {BERTSCORE_LAYER}",
            where="radcliq_v1",
            remedy="Give those networks",
            kind="wrong_network",
        )
    annotations = annotator.annotate([*predictions, *references])
    pairs = zip(annotations[: len(predictions)], annotations[len(predictions) :], strict=True)
    values = composite(
        [_entity_relation_f1(mine, theirs) for mine, theirs in pairs],
        bertscore(predictions, references, scorer=scorer).per_pair["f1"],
        chexbert(predictions, references, labeler=labeler).per_pair["embedding_similarity"],
        bleu_coco(predictions, references).per_pair["bleu_2"],
    )
    facts = {"scorer": "llava_rad", "better": "lower", "range": "standardised errors"}
    return mean_result("radcliq_v1", {"radcliq_v1": values}, facts=facts)


def composite(
    radgraph: ArrayLike, bertscore: ArrayLike, similarity: ArrayLike, bleu_2: ArrayLike
) -> Floats:
    """RadCliQ-v1 of each pair [pairs] from its four scores."""
    columns = np.column_stack([radgraph, bertscore, similarity, bleu_2])
    return (columns - _MEANS) / _SCALES @ _WEIGHTS + _INTERCEPT


def _entity_relation_f1(mine: Annotation, theirs: Annotation) -> float:
    """Mean of the F1 of entities and of relations, both with labels and capitals as they are."""
    scores = []
    for facts in (_entities, _relations):
        a, b = facts(mine), facts(theirs)
        scores.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0)
    return sum(scores) / 2


def _entities(annotation: Annotation) -> set[tuple[str, str]]:
    return {(e["tokens"], e["label"]) for e in annotation["entities"].values()}


def _relations(annotation: Annotation) -> set[tuple[str, ...]]:
    entities = annotation["entities"]
    return {
        (e["tokens"], e["label"], entities[to]["tokens"], entities[to]["label"], relation)
        for e in entities.values()
        for relation, to in e["relations"]
    }
