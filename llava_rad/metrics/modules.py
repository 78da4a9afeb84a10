"""The metrics as modules of the library ``evaluate``, loaded without a network."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from llava_rad.errors import MetricError
from llava_rad.metrics.score import DEFINITIONS, METRICS, MetricSettings, Scorer


class ReportMetric(evaluate.Metric):
    """One metric of this package as an ``evaluate.Metric``.

    ``compute(predictions=..., references=...)`` gives the metric's values by name, and with
    ``per_pair=True`` also ``per_pair``: lists of the values that single pairs have.

    Args:
        name: a name out of :data:`llava_rad.metrics.METRICS`.
        settings: how the metric is computed and where its weights are.
        **options: ``evaluate.Metric``'s own.
    """

    def __init__(self, name: str, settings: MetricSettings | None = None, **options: Any) -> None:
        if name not in METRICS:
            raise MetricError(
                f"there is no metric '{name}'",
                remedy=f"Choose among {', '.join(METRICS)}",
                kind="unknown_metric",
            )
        self._scorer = Scorer([name], settings, require=True)
        super().__init__(config_name=name, keep_in_memory=True, **options)
        self.info.module_name = name  # evaluate puts the class' name here

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DEFINITIONS[self.config_name],
            citation="",
            inputs_description="predictions and references: one text each, in the same order",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                }
            ),
            module_name=self.config_name,
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], per_pair: bool = False
    ) -> dict[str, Any]:
        result = self._scorer(list(predictions), list(references)).results[self.config_name]
        values: dict[str, Any] = dict(result.values)
        if per_pair:
            values["per_pair"] = {name: list(map(float, v)) for name, v in result.per_pair.items()}
        return values


def load_metric(name: str, settings: MetricSettings | None = None) -> ReportMetric:
    """A metric of this package as an ``evaluate.Metric``, ready to compute or to combine.

    Raises:
        MetricError: there is no such metric.
    """
    return ReportMetric(name, settings)
