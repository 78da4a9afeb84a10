"""How well generated findings agree with true ones, and whether that means anything.

One file a metric, each a plain function ``metric(predictions, references)`` that returns a
``MetricResult``: the corpus' values, each pair's, and additive statistics from which intervals,
comparisons and results on some of the pairs follow. ``score`` computes many at once and names those
whose weights are missing; ``load_metric`` gives one as a module of the library ``evaluate``.
Nothing heavy is imported before it is needed.
"""

from typing import TYPE_CHECKING, Any

from llava_rad.metrics.annotator import RadGraphAnnotator
from llava_rad.metrics.bertscore import BertScorer, bertscore
from llava_rad.metrics.bleu import bleu_coco, bleu_rexrank, bleu_sacrebleu
from llava_rad.metrics.chexbert import CheXbert, chexbert
from llava_rad.metrics.cider import cider
from llava_rad.metrics.green import green
from llava_rad.metrics.judge_llm import EndpointJudge, LocalJudge, RememberingJudge
from llava_rad.metrics.label_f1 import label_f1
from llava_rad.metrics.meteor import meteor, meteor_wordnet
from llava_rad.metrics.radcliq import RadCliQParts, radcliq, radgraph_radcliq
from llava_rad.metrics.radfact import radfact
from llava_rad.metrics.radgraph import radgraph_f1, score_annotations
from llava_rad.metrics.ratescore import RaTEScorer, ratescore
from llava_rad.metrics.result import MetricResult
from llava_rad.metrics.rouge import rouge, rouge_l_coco
from llava_rad.metrics.rules import chexpert_rules, label_report, label_reports
from llava_rad.metrics.score import (
    DEFAULT_METRICS,
    HEADLINES,
    METRICS,
    MetricSettings,
    Scorer,
    Scores,
    headline_values,
    score,
)
from llava_rad.metrics.srr_bert import SrrBert, srr_bert
from llava_rad.metrics.temporal import temporal_f1

if TYPE_CHECKING:
    from llava_rad.metrics.modules import ReportMetric, load_metric

__all__ = [
    "DEFAULT_METRICS",
    "HEADLINES",
    "METRICS",
    "BertScorer",
    "CheXbert",
    "EndpointJudge",
    "LocalJudge",
    "MetricResult",
    "MetricSettings",
    "RaTEScorer",
    "RadCliQParts",
    "RadGraphAnnotator",
    "RememberingJudge",
    "ReportMetric",
    "Scorer",
    "Scores",
    "SrrBert",
    "bertscore",
    "bleu_coco",
    "bleu_rexrank",
    "bleu_sacrebleu",
    "chexbert",
    "chexpert_rules",
    "cider",
    "green",
    "headline_values",
    "label_f1",
    "label_report",
    "label_reports",
    "load_metric",
    "meteor",
    "meteor_wordnet",
    "radcliq",
    "radfact",
    "radgraph_f1",
    "radgraph_radcliq",
    "ratescore",
    "rouge",
    "rouge_l_coco",
    "score",
    "score_annotations",
    "srr_bert",
    "temporal_f1",
]


def __getattr__(name: str) -> Any:
    # The library ``evaluate`` takes seconds to import.
    if name in ("ReportMetric", "load_metric"):
        from llava_rad.metrics import modules

        return getattr(modules, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
