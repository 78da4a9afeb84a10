"""How well generated findings agree with true ones, and whether that means anything.

One file a metric, each a plain function ``metric(predictions, references)`` that returns a
``MetricResult``: the corpus' values, each pair's, and additive statistics from which intervals,
comparisons and results on some of the pairs follow. ``score`` computes many at once and names those
whose weights are missing; ``load_metric`` gives one as a module of the library ``evaluate``.

Around them: ``resampling`` (bootstrap, paired tests), ``floors`` (what texts written without the
image score), ``image_gain`` (what texts written with a wrong image score), ``predictions`` (the
file format), ``evaluation``, ``page`` and ``output`` (everything that is said about one file, as
JSON, HTML and text). Nothing heavy is imported before it is needed.
"""

from typing import TYPE_CHECKING, Any

from llava_rad.metrics.annotator import RadGraphAnnotator
from llava_rad.metrics.bertscore import BertScorer, bertscore
from llava_rad.metrics.bleu import bleu_coco, bleu_sacrebleu
from llava_rad.metrics.chexbert import CheXbert, chexbert
from llava_rad.metrics.cider import cider
from llava_rad.metrics.evaluation import Evaluation, evaluate_predictions, pair_to_json, to_json
from llava_rad.metrics.image_gain import (
    CONTROLS,
    Control,
    Gain,
    ImageControl,
    control_markdown,
    control_table,
    control_to_json,
    measure_control,
)
from llava_rad.metrics.label_f1 import label_f1
from llava_rad.metrics.meteor import meteor, meteor_wordnet
from llava_rad.metrics.observations import FIVE, OBSERVATIONS, Mention
from llava_rad.metrics.output import evaluation_table, write_evaluation
from llava_rad.metrics.page import render_page
from llava_rad.metrics.predictions import Prediction, Predictions, read_predictions, read_reports
from llava_rad.metrics.radcliq import radcliq_v1
from llava_rad.metrics.radgraph import radgraph_f1, score_annotations
from llava_rad.metrics.resampling import Difference, Interval, bootstrap, compare, holm
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

if TYPE_CHECKING:
    from llava_rad.metrics.modules import ReportMetric, load_metric

__all__ = [
    "CONTROLS",
    "DEFAULT_METRICS",
    "FIVE",
    "HEADLINES",
    "METRICS",
    "OBSERVATIONS",
    "BertScorer",
    "CheXbert",
    "Control",
    "Difference",
    "Evaluation",
    "Gain",
    "ImageControl",
    "Interval",
    "Mention",
    "MetricResult",
    "MetricSettings",
    "Prediction",
    "Predictions",
    "RadGraphAnnotator",
    "ReportMetric",
    "Scorer",
    "Scores",
    "bertscore",
    "bleu_coco",
    "bleu_sacrebleu",
    "bootstrap",
    "chexbert",
    "chexpert_rules",
    "cider",
    "compare",
    "control_markdown",
    "control_table",
    "control_to_json",
    "evaluate_predictions",
    "evaluation_table",
    "headline_values",
    "holm",
    "label_f1",
    "label_report",
    "label_reports",
    "load_metric",
    "measure_control",
    "meteor",
    "meteor_wordnet",
    "pair_to_json",
    "radcliq_v1",
    "radgraph_f1",
    "read_predictions",
    "read_reports",
    "render_page",
    "rouge",
    "rouge_l_coco",
    "score",
    "score_annotations",
    "to_json",
    "write_evaluation",
]


def __getattr__(name: str) -> Any:
    # The library ``evaluate`` takes seconds to import.
    if name in ("ReportMetric", "load_metric"):
        from llava_rad.metrics import modules

        return getattr(modules, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
