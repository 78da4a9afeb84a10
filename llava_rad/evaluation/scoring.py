"""Scores of texts in memory, as an object: a table to look at, plain values, a data frame."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from llava_rad import extras
from llava_rad.data.targets import Section
from llava_rad.errors import MetricError
from llava_rad.evaluation.evaluation import Evaluation, evaluate_predictions, to_json
from llava_rad.evaluation.output import evaluation_table, table_rows
from llava_rad.evaluation.predictions import given_predictions
from llava_rad.evaluation.presets import PresetName, apply_preset
from llava_rad.evaluation.primary import PRIMARY
from llava_rad.metrics.score import DEFAULT_METRICS, MetricSettings, Scorer
from llava_rad.statistics import RESAMPLES

if TYPE_CHECKING:
    import pandas

    from llava_rad.reports import Report


@dataclass(frozen=True, repr=False)
class ScoreTable:
    """The scores of generated texts, with intervals and baselines; its ``repr`` is the table.

    Attributes:
        evaluation: everything that was found out, pair by pair.

    Example:
        >>> written = ["No effusion. Heart size is normal.", "Large left effusion."]
        >>> true = ["No pleural effusion. Normal heart.", "Large left pleural effusion."]
        >>> table = llava_rad.score(written, true, metrics=["rouge", "chexpert_rules"])
        >>> table["rouge/rougeL"] > 0.5
        True
        >>> table.to_dict()["metrics"]["rouge"]["count"]
        2
    """

    evaluation: Evaluation

    def __getitem__(self, key: str) -> float:
        """The value of ``metric/value``, such as ``"bleu_coco/bleu_4"``."""
        metric, _, value = key.partition("/")
        return self.evaluation.scores.results[metric].values[value]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers must know."""
        preset = self.evaluation.preset
        return (*(preset.warnings() if preset else ()), *self.evaluation.warnings)

    @property
    def left_out(self) -> dict[str, str]:
        """Metrics that were not computed, and why."""
        return self.evaluation.scores.left_out

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the content of ``metrics.json``."""
        return to_json(self.evaluation)

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a data frame, a row for each ``metric`` and ``value``.

        Raises:
            MetricError: pandas is not installed.

        Example:
            >>> table = llava_rad.score(["No effusion."], ["No effusion."], metrics=["rouge"])
            >>> frame = table.to_pandas()
            >>> float(frame.loc[("rouge", "rougeL"), "result"])
            1.0
        """
        try:
            import pandas
        except ImportError as error:
            raise MetricError(
                "a data frame needs pandas, which is not installed",
                remedy="Run: pip install pandas",
                kind="missing_package",
            ) from error
        return pandas.DataFrame(table_rows(self.evaluation)).set_index(["metric", "value"])

    def __repr__(self) -> str:
        left_out = [f"not computed: {name}: {why}" for name, why in self.left_out.items()]
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([evaluation_table(self.evaluation), *warnings, *left_out])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def score(
    predictions: "Sequence[str | Report]",
    references: Sequence[str],
    *,
    patients: Sequence[str | None] | None = None,
    language: str | None = None,
    section: Section | None = None,
    preset: PresetName | None = None,
    metrics: Sequence[str] | None = None,
    primary: str | None = None,
    settings: MetricSettings | None = None,
    require: bool = False,
    resamples: int | None = None,
    seed: int = 0,
) -> ScoreTable:
    """Score generated texts against true ones, as ``llava-rad score`` does for a file.

    Args:
        predictions: texts, or reports as a model wrote them.
        references: the true texts, in the same order.
        patients: whose each study is: intervals resample patients; None resamples studies, and so
            does a None among them that study.
        language: of the references, such as ``"de"``; None is English.
        section: the part of the report that was generated; None is the preset's, or findings.
        preset: the convention of a published table, such as ``"rexrank"``, that sets what the
            other arguments leave open; what they set otherwise wins, with a warning.
        metrics: names out of ``llava_rad.metrics.METRICS``; None is the preset's, or the default.
        primary: the one value that counts, declared before, as ``metric/value``; None is the
            preset's, or that of ``llava-rad score``.
        settings: of the metrics, and where their weights are; with a preset, a value that is not
            the default counts as set.
        require: raise where a metric cannot be computed, instead of leaving it out.
        resamples: of the bootstrap; None is the preset's, or 1,000.
        seed: of the bootstrap and the baselines.

    Raises:
        ConfigError: there is no such preset or metric.
        MetricError: the lists do not fit together, or nothing can be computed.
        WeightsError: a required metric's weights are missing, or weights are damaged.
        MissingExtraError: the packages of ``llava-rad[eval]`` are not installed.

    Example:
        >>> table = llava_rad.score(
        ...     ["Heart size is normal.", "Large left effusion."],
        ...     ["The heart is normal in size.", "Large left pleural effusion."],
        ...     metrics=["bleu_coco", "chexpert_rules"],
        ... )
        >>> print(table)  # doctest: +ELLIPSIS
        given texts: 2 pairs, findings, 2 distinct outputs (100.0 %)
        ...

        As a published table prints it; what is missing is named with the command that fetches it:

        >>> table = llava_rad.score(
        ...     ["Findings: Clear lungs. Impression: None"],
        ...     ["Findings: Lungs are clear. Impression: Normal"],
        ...     preset="rexrank",
        ... )
        >>> table.to_dict()["preset"]["table"][0]["name"]
        'BLEU-2'
    """
    extras.require("eval", "scoring")
    published = None
    if preset is not None:
        settings = settings or MetricSettings()
        named = {f.name: getattr(settings, f.name) for f in fields(settings)}
        given = {f.name: named[f.name] for f in fields(settings) if named[f.name] != f.default}
        if metrics is not None:
            given["metrics"] = ", ".join(metrics)
        given |= {} if primary is None else {"primary": primary}
        given |= {} if resamples is None else {"resamples": resamples}
        published = apply_preset(preset, given)
        section, published = published.in_section(section)
        chosen = published.chosen()
        metrics = published.preset.metrics if metrics is None else metrics
        primary = chosen.get("primary", primary)
        resamples = chosen.get("resamples", resamples)
        settings = replace(settings, **{n: v for n, v in chosen.items() if n in named})
    written: Any = predictions  # one text is refused as such, and not taken for its letters
    if not isinstance(predictions, str):
        written = [getattr(text, "findings", text) for text in predictions]
    true = references if isinstance(references, str) else list(references)
    return ScoreTable(
        evaluate_predictions(
            given_predictions(written, true, patients=patients, language=language),
            Scorer(DEFAULT_METRICS if metrics is None else metrics, settings, require=require),
            section=section,
            primary=PRIMARY if primary is None else primary,
            resamples=RESAMPLES if resamples is None else resamples,
            seed=seed,
            preset=published,
        )
    )
