"""Everything that is said about a model's reports: predictions, baselines, image control, the page.

:mod:`predictions` is the file format, :mod:`evaluation` gathers what is said about one file,
:mod:`baselines` scores texts written without the image, :mod:`image_gain` those written with a
wrong one (:mod:`controls` makes them), :mod:`page` and :mod:`output` show it as HTML and text, with
the names of :mod:`labels`, :mod:`scoring` scores texts in memory, :mod:`split_reports` writes the
reports on one split of a manifest.

:mod:`observation_errors` counts what was found, missed and invented in :mod:`subgroups` of studies,
:mod:`error_changes` compares two such counts, :mod:`error_page` and :mod:`error_output` show both.
"""

from llava_rad.evaluation.evaluation import Evaluation, evaluate_predictions, pair_to_json, to_json
from llava_rad.evaluation.image_gain import (
    CONTROLS,
    Control,
    Gain,
    ImageControl,
    control_markdown,
    control_table,
    control_to_json,
    measure_control,
)
from llava_rad.evaluation.output import evaluation_table, write_evaluation, write_page
from llava_rad.evaluation.page import render_page
from llava_rad.evaluation.predictions import (
    Columns,
    Prediction,
    Predictions,
    read_predictions,
    read_reports,
)
from llava_rad.evaluation.scoring import ScoreTable, score

__all__ = [
    "CONTROLS",
    "Columns",
    "Control",
    "Evaluation",
    "Gain",
    "ImageControl",
    "Prediction",
    "Predictions",
    "ScoreTable",
    "control_markdown",
    "control_table",
    "control_to_json",
    "evaluate_predictions",
    "evaluation_table",
    "measure_control",
    "pair_to_json",
    "read_predictions",
    "read_reports",
    "render_page",
    "score",
    "to_json",
    "write_evaluation",
    "write_page",
]
