"""An evaluation as people and programs get it: a table, and a folder of files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError
from llava_rad.evaluation.error_output import write_errors
from llava_rad.evaluation.evaluation import Evaluation, pair_to_json, to_json
from llava_rad.evaluation.labels import BASELINE_NAMES, key_label, value_label
from llava_rad.evaluation.page import render_page
from llava_rad.evaluation.table import text_table
from llava_rad.outputs import write_result
from llava_rad.readers import read_json
from llava_rad.wording import counted

# What an evaluation and an image control of the same reports have in common.
_DECIDES = ("model_sha256", "manifest_sha256", "split", "section", "settings", "precision")


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    cases: int = 20,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write metrics.json, per_sample.jsonl, errors.json, errors.csv and report.html.

    Args:
        evaluation: what they show.
        folder: made where it is missing.
        cases: worst and best pairs on the page.
        facts: more for ``metrics.json``, such as how the predictions were generated.

    Raises:
        DataError: the folder cannot be written.
    """
    facts = facts or {}
    content = {**to_json(evaluation), **facts}
    summary = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_result(folder / "metrics.json", summary + "\n")
    write_result(
        folder / "per_sample.jsonl",
        (
            json.dumps(pair_to_json(evaluation, i), ensure_ascii=False, allow_nan=False) + "\n"
            for i in range(evaluation.count)
        ),
    )
    write_errors(evaluation.errors, folder)
    write_page(evaluation, folder, cases=cases, generation=facts.get("generation"))


def write_page(
    evaluation: Evaluation,
    folder: Path,
    *,
    cases: int = 20,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Write ``report.html``, with the verdict of the folder's ``image_control.json``.

    Args:
        evaluation: what it shows.
        folder: of the results.
        cases: worst and best pairs.
        generation: what wrote the predictions. A control of another model, other studies or
            another decoding is left out.

    Raises:
        DataError: the folder cannot be written.
    """
    control = None if generation is None else _control_of(folder, generation)
    page = render_page(evaluation, cases=cases, generation=generation, control=control)
    write_result(folder / "report.html", page)


def _control_of(folder: Path, generation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The image control in a folder, if it is one of these reports."""
    try:
        control = read_json(folder / "image_control.json", expect=dict)
    except DataError:
        return None
    theirs = control.get("generation")
    same = isinstance(theirs, dict) and all(theirs.get(key) == generation[key] for key in _DECIDES)
    return control if same else None


def table_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The headline values, the primary one first.

    Returns:
        For each ``metric`` and ``value`` its ``result``, its interval from ``low`` to ``high``
        (None where there is none), and a number for each baseline and part of the references
        (None of a baseline that a judge was not asked about).
    """
    baselines = evaluation.baselines.headlines()
    parts = evaluation.by_reference()
    rows = []
    for name, shown in evaluation.shown.items():
        for value in shown:
            key = f"{name}/{value}"
            interval = evaluation.intervals[name].get(value)
            rows.append(
                {
                    "metric": name,
                    "value": value,
                    "result": evaluation.scores.results[name].values[value],
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    **{BASELINE_NAMES[of]: numbers.get(key) for of, numbers in baselines.items()},
                    **{f"{part} refs": numbers[key] for part, numbers in parts.items()},
                }
            )
    return rows


def evaluation_table(evaluation: Evaluation) -> str:
    """Headline values with intervals, baselines and parts, and what the scorers are."""
    values = table_rows(evaluation)
    others = list(values[0])[5:] if values else []
    rows = [
        [
            row["metric"],
            value_label(row["value"]),
            f"{row['result']:.4f}",
            "" if row["low"] is None else f"{row['low']:.4f}-{row['high']:.4f}",
            *("" if row[name] is None else f"{row[name]:.4f}" for name in others),
        ]
        for row in values
    ]
    head = ["metric", "value", "result", "95 % interval", *others]
    primary = f"primary metric, declared before: {key_label(evaluation.primary)}"
    if rows and evaluation.primary.partition("/")[0] in evaluation.shown:
        primary += " (first row); the others are exploratory"
    else:
        primary += "; it was not computed, so all values are exploratory"
    facts = [
        f"{evaluation.predictions.name}: {counted(evaluation.count, 'pair')}, "
        f"{evaluation.section}, {counted(evaluation.distinct, 'distinct output')} "
        f"({100 * evaluation.distinct / evaluation.count:.1f} %)",
        f"single report chosen among {evaluation.baselines.fixed_from}; normal and abnormal told "
        f"by {evaluation.normal_by}",
        f"intervals from {evaluation.resamples} resamples of {evaluation.units}",
        primary,
    ]
    scorers = [
        f"  {name}: "
        + ", ".join(
            f"{key} {value[:12] if key.endswith('sha256') else value}"
            for key, value in result.facts.items()
        )
        for name, result in evaluation.scores.results.items()
    ]
    table = [*facts, "", text_table(head, rows), ""]
    if evaluation.boxes is not None:
        table += [evaluation.boxes.table(), ""]
    return "\n".join([*table, *_published_table(evaluation), "scorers:", *scorers])


def _published_table(evaluation: Evaluation) -> list[str]:
    """The columns of the table whose convention was followed; nothing without a preset."""
    if evaluation.preset is None:
        return []
    title = evaluation.preset.preset.title
    rows = [
        [
            row["name"],
            "" if row["number"] is None else f"{row['number']:.4f}",
            row["missing"] or f"{row['printed']} of {row['value']}" + _times(row["scale"]),
        ]
        for row in evaluation.published()
    ]
    return [f"as {title} prints it:", text_table(["column", "number", "what it is"], rows), ""]


def _times(scale: float) -> str:
    return "" if scale == 1 else f", times {scale:g}"
