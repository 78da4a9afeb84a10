"""What a written report is worth: a weighted mix of metrics of the report and the true text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llava_rad.metrics.result import Floats
from llava_rad.metrics.score import MetricSettings, Scorer
from llava_rad.report_training.config import RewardConfig


class _Source(NamedTuple):
    """A metric's value of a single pair.

    Attributes:
        metric: of :data:`llava_rad.metrics.METRICS`.
        value: name among those that it has for each pair.
        largest: of the value, which counts as 1.
    """

    metric: str
    value: str
    largest: float = 1.0


_LABELS = "uncertain_positive/14/samples/f1"
_SOURCES = {
    "radgraph": _Source("radgraph", "radgraph_f1"),
    "chexbert": _Source("chexbert", _LABELS),
    "rules": _Source("chexpert_rules", _LABELS),
    "bleu": _Source("bleu_sacrebleu", "bleu_4", 100.0),
    "rouge_l": _Source("rouge", "rougeL"),
    "bertscore": _Source("bertscore", "f1"),
}


class Rewards:
    """Computes the parts of a reward, loading each network once.

    Args:
        names: of the parts, fields of :class:`~llava_rad.report_training.config.RewardConfig`.
        metric: one more metric, whose values over many pairs are asked for.
        settings: of the metrics.

    Raises:
        ConfigError: there is no such metric.
    """

    def __init__(
        self,
        names: Sequence[str],
        metric: str | None = None,
        settings: MetricSettings | None = None,
    ) -> None:
        self.names = tuple(names)
        metrics = [_SOURCES[name].metric for name in names if name in _SOURCES]
        self._scorer = Scorer([*metrics, *([metric] if metric else [])], settings, require=True)

    def __call__(self, texts: Sequence[str], true: Sequence[str]) -> dict[str, Floats]:
        """The parts of the reward of each text, [texts] each, by name.

        Raises:
            WeightsError: a metric's weights are missing or damaged.
            MetricError: a metric cannot be computed.
        """
        metrics = [_SOURCES[name].metric for name in self.names if name in _SOURCES]
        results = self._scorer.only(metrics)(texts, true).results if metrics else {}
        parts = {}
        for name in self.names:
            if name == "length":
                parts[name] = length_penalty(texts, true)
            else:
                source = _SOURCES[name]
                parts[name] = results[source.metric].per_pair[source.value] / source.largest
        return parts

    def over_all(self, texts: Sequence[str], true: Sequence[str]) -> dict[str, float]:
        """Every value over all texts of every metric, by ``metric/value``."""
        results = self._scorer(texts, true).results if self._scorer.metrics else {}
        return {
            f"{metric}/{name}": value
            for metric, result in results.items()
            for name, value in result.values.items()
        }


def length_penalty(texts: Sequence[str], true: Sequence[str]) -> Floats:
    """0 for a text of as many words as the true one, down to -1 for none or twice as many.

    Example:
        >>> length_penalty(["No effusion.", ""], ["No large effusion seen.", "Clear lungs."])
        array([-0.5, -1. ])
    """
    found = np.array([len(text.split()) for text in texts], dtype=np.float64)
    wanted = np.array([max(1, len(text.split())) for text in true], dtype=np.float64)
    return -np.minimum(np.abs(found - wanted) / wanted, 1.0)


def mixed(parts: Mapping[str, Floats], weights: RewardConfig) -> Floats:
    """The reward of each text: its parts, each times its weight, added up; [texts]."""
    return np.sum([getattr(weights, name) * values for name, values in parts.items()], axis=0)
