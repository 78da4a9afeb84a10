"""Whole conventions of published tables under one name: what to compute, how, what to print.

Each is a YAML file of ``published/`` with its source. A preset sets the metrics, their settings,
the section and form of the references, the resamples and the value that counts; its columns are
those of the table that it reproduces. What its user says otherwise wins, and is told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from llava_rad.config import Count, load_config
from llava_rad.data.targets import Section
from llava_rad.errors import ConfigError
from llava_rad.evaluation.predictions import Predictions
from llava_rad.metrics.radcliq import single_spaces
from llava_rad.metrics.result import json_number, ratio
from llava_rad.metrics.score import METRICS, Scores
from llava_rad.statistics import Interval, Units

PresetName = Literal["llava-rad", "maira-2", "rexrank", "radeval", "f1chexbert"]
PRESETS: tuple[str, ...] = get_args(PresetName)
_FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Column:
    """One column of a published table.

    Attributes:
        name: as the table has it.
        value: what it is here, as ``metric/value``.
        printed: the value itself, the median of its resamples, or its inverse.
        scale: that the table multiplies it with.
    """

    name: str
    value: str
    printed: Literal["value", "median", "inverse"] = "value"
    scale: float = 1.0

    @property
    def metric(self) -> str:
        """The metric that the value belongs to."""
        return self.value.partition("/")[0]


@dataclass(frozen=True)
class PresetSettings:
    """What a preset sets of :class:`~llava_rad.metrics.MetricSettings`; None is not its concern."""

    rouge_stemmer: bool | None = None
    chexbert_precision: str | None = None
    chexbert_windows: bool | None = None
    radgraph_model: str | None = None
    radgraph_casing: str | None = None
    bertscore_model: str | None = None
    bertscore_layer: int | None = None
    bertscore_rescale: bool | None = None


@dataclass(frozen=True)
class Preset:
    """The convention of one published table.

    Attributes:
        title: whose it is.
        reproduces: the numbers that it gives.
        source: where the convention is written down.
        checked: against what its definitions were compared.
        open: what the source does not say, and what is not reproduced.
        section: of the report.
        references: what the true texts are.
        texts: what is done to texts before they are compared.
        uncertain: how uncertain mentions count.
        primary: the value that counts, as ``metric/value``.
        resample: what the intervals draw.
        metrics: that the table shows.
        columns: of the table, in its order.
        settings: of the metrics.
        resamples: of the bootstrap.
        headed: references are written with the headers ``Findings:`` and ``Impression:``.
        single_spaces: runs of spaces are read as one.
    """

    title: str
    reproduces: str
    source: str
    checked: str
    open: str
    section: Section
    references: str
    texts: str
    uncertain: str
    primary: str
    resample: Literal["patients", "studies"]
    metrics: list[str]
    columns: list[Column]
    settings: PresetSettings
    resamples: Count
    headed: bool = False
    single_spaces: bool = False

    def options(self) -> dict[str, Any]:
        """What it sets, by the names that the command line has for it."""
        set_here = {each.name: getattr(self.settings, each.name) for each in fields(self.settings)}
        return {
            "metrics": ", ".join(self.metrics),
            "primary": self.primary,
            "resamples": self.resamples,
            **{name: value for name, value in set_here.items() if value is not None},
        }


@dataclass(frozen=True)
class AppliedPreset:
    """A preset as it was used.

    Attributes:
        name: of the preset.
        preset: what it says.
        overridden: what its user set otherwise, by option.
    """

    name: str
    preset: Preset
    overridden: Mapping[str, Any] = field(default_factory=dict)

    def chosen(self) -> dict[str, Any]:
        """What it sets and its user did not, by the names that the command line has for it."""
        options = self.preset.options()
        return {name: value for name, value in options.items() if name not in self.overridden}

    def in_section(self, section: Section | None) -> tuple[Section, "AppliedPreset"]:
        """The section to compare with, and the preset as it is used: one that is named wins."""
        own = self.preset.section
        if section is None or section == own:
            return own, self
        return section, replace(self, overridden={**self.overridden, "section": section})

    def warnings(self, spell: Callable[[str], str] = str) -> list[str]:
        """One sentence for each option that was set otherwise, named as ``spell`` has it."""
        options = {"section": self.preset.section, **self.preset.options()}
        return [
            f"{spell(name)} {value} is used instead of {options[name]}, which the preset "
            f"{self.name} sets; the numbers are not those of the published table"
            for name, value in self.overridden.items()
        ]

    def prepare(self, predictions: Predictions) -> Predictions:
        """The texts as the published program compares them."""
        if not self.preset.single_spaces:
            return predictions
        rows = (
            replace(
                row,
                prediction=single_spaces(row.prediction),
                reference=single_spaces(row.reference),
            )
            for row in predictions.rows
        )
        return replace(predictions, rows=tuple(rows))

    def units(self, patients: list[str | None]) -> Units:
        """What the bootstrap draws, of studies by their patients."""
        alone = self.preset.resample == "studies"
        return Units.of([None] * len(patients) if alone else patients)

    def facts(self) -> dict[str, Any]:
        """The preset and all that it set, for JSON."""
        preset = self.preset
        return {
            "name": self.name,
            "title": preset.title,
            "reproduces": preset.reproduces,
            "source": preset.source,
            "checked": preset.checked,
            "open": preset.open,
            "set": {
                "section": preset.section,
                "references": preset.references,
                "texts": preset.texts,
                "uncertain": preset.uncertain,
                "resample": preset.resample,
                **preset.options(),
            },
            "overridden": dict(self.overridden),
        }

    def rows(
        self, scores: Scores, intervals: Mapping[str, Mapping[str, Interval]]
    ) -> list[dict[str, Any]]:
        """The columns of the published table.

        Returns:
            For each its ``name``, its ``number`` (None where it cannot be had), ``value`` as
            ``metric/value``, how it is ``printed``, and ``missing``: why there is no number.
        """
        rows = []
        for column in self.preset.columns:
            number, missing = None, scores.left_out.get(column.metric, "it was not asked for")
            printed = _PRINTED[column.printed]
            if column.metric in scores.results:
                number, missing = _number(column, scores, intervals), ""
                if column.printed == "median" and _median(column, intervals) is None:
                    printed = _NO_MEDIAN
            rows.append(
                {
                    "name": column.name,
                    "number": None if number is None else json_number(number),
                    "value": column.value,
                    "printed": printed,
                    "scale": json_number(column.scale),
                    "missing": missing,
                }
            )
        return rows


_PRINTED = {
    "value": "the value",
    "median": "the median of the resamples",
    "inverse": "1 / the value",
}
_NO_MEDIAN = "the value (nothing was resampled)"


def _median(column: Column, intervals: Mapping[str, Mapping[str, Interval]]) -> float | None:
    interval = intervals[column.metric].get(column.value.partition("/")[2])
    return None if interval is None else interval.median


def _number(
    column: Column, scores: Scores, intervals: Mapping[str, Mapping[str, Interval]]
) -> float:
    key = column.value.partition("/")[2]
    value = scores.results[column.metric].values[key]
    if column.printed == "median":
        median = _median(column, intervals)
        value = value if median is None else median
    elif column.printed == "inverse":
        value = float(ratio(1.0, value))
    return value * column.scale


def apply_preset(name: str, given: Mapping[str, Any]) -> AppliedPreset:
    """A preset with what its user says otherwise, which wins.

    Args:
        name: of the preset.
        given: the options that its user named, as :meth:`Preset.options` writes them; those that
            no preset sets may be among them.

    Raises:
        ConfigError: there is no such preset, or its file is wrong.
    """
    preset = _with_folder(load_preset(name), given.get("bertscore_model"))
    overridden = {
        option: given[option]
        for option, value in preset.options().items()
        if option in given and not _equal(option, given[option], value)
    }
    return AppliedPreset(name, preset, overridden)


def _equal(option: str, given: Any, value: Any) -> bool:
    if option == "metrics":  # in whatever order
        return set(given.split(", ")) == set(value.split(", "))
    return bool(given == value)


def _with_folder(preset: Preset, folder: str | None) -> Preset:
    """The preset with its own model of BERTScore where that lies in a folder of its name."""
    model = preset.settings.bertscore_model
    if folder is None or model is None or Path(folder).name != Path(model).name:
        return preset
    if not Path(folder).expanduser().is_dir():
        return preset
    return replace(preset, settings=replace(preset.settings, bertscore_model=folder))


@cache
def load_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ConfigError: there is no such preset, or its file is wrong.

    Example:
        >>> from llava_rad.evaluation.presets import load_preset
        >>> load_preset("rexrank").columns[0].name
        'BLEU-2'
    """
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset '{name}'",
            remedy=f"Choose one of {', '.join(PRESETS)}",
            kind="unknown_preset",
        )
    path = _FOLDER / f"{name}.yaml"
    preset = load_config(Preset, path)
    unknown = [metric for metric in preset.metrics if metric not in METRICS]
    unknown += [column.name for column in preset.columns if column.metric not in preset.metrics]
    if unknown:
        raise ConfigError(f"it names what there is not: {', '.join(unknown)}", where=path)
    return preset
