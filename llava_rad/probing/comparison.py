"""Encoders times tasks: one table, with intervals and paired differences, in four formats."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_rad.appearance.pages import fill_page
from llava_rad.outputs import MAKER, has_keys, starts_with, write_result
from llava_rad.probing.outcome import Estimate
from llava_rad.probing.record import (
    MEASURES,
    difference_to_plain,
    interval,
    measure_label,
    number,
    to_plain,
)
from llava_rad.statistics import SIGNIFICANT, Difference

_TITLES = {"input_size": "input"}
_FORMATS = {"input_size": "{} px", "tokens": "{}"}


@dataclass(frozen=True)
class Pair:
    """Two encoders on one task's headline measure.

    Attributes:
        task: its name.
        measure: the headline.
        first, second: names of the encoders.
        difference: first minus second.
        p: two-sided, corrected for the number of pairs of the task (Holm).
    """

    task: str
    measure: str
    first: str
    second: str
    difference: Difference
    p: float

    @property
    def interval(self) -> str:
        """Of the difference, as tables show it."""
        plain = difference_to_plain(self.difference)
        return interval(plain["low"], plain["high"])


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        encoders: facts of each encoder, by its name in the table.
        estimates: by task and encoder.
        headlines: measure that stands for each task.
        lower_is_better: tasks whose headline is better when lower.
        pairs: all pairs of encoders on all tasks.
        reference: the encoder that the table's marks refer to.
        left_out: encoders that could not be loaded, with the reason.
        row: what a row of the table is.
        columns: facts that the table states of each row; one may lack some.
    """

    encoders: dict[str, dict[str, Any]]
    estimates: dict[str, dict[str, dict[str, Estimate]]]
    headlines: dict[str, str]
    lower_is_better: tuple[str, ...]
    pairs: tuple[Pair, ...]
    reference: str
    left_out: dict[str, str]
    row: str = "encoder"
    columns: tuple[str, ...] = ("input_size", "tokens", "parameters")

    def stated(self, encoder: str) -> list[str]:
        """The facts of a row as the table shows them, in the order of the columns."""
        facts = self.encoders[encoder]
        return [
            _FORMATS.get(c, "{:,}").format(facts[c]) if c in facts else "" for c in self.columns
        ]

    @property
    def titles(self) -> list[str]:
        """Of the columns."""
        return [_TITLES.get(column, column) for column in self.columns]

    def headline_label(self, task: str) -> str:
        """The measure that stands for a task, and its direction where lower is better."""
        lower = ", lower is better" if task in self.lower_is_better else ""
        return measure_label(self.headlines[task]) + lower

    def against_reference(self, task: str, encoder: str) -> Pair | None:
        """The encoder minus the reference on a task; None for the reference itself."""
        for pair in self.pairs:
            if pair.task == task and pair.first == encoder and pair.second == self.reference:
                return pair
        return None


def to_markdown(comparison: Comparison) -> str:
    """The table of headlines, and under it the differences to the reference."""
    c = comparison
    titles = [f"{task} ({c.headline_label(task)})" for task in c.estimates]
    head = [c.row, *c.titles, *titles]
    lines = [_row(head), _row(["---"] * len(head))]
    for name in c.encoders:
        cells = [name, *c.stated(name)]
        for task, by_encoder in c.estimates.items():
            e = by_encoder[name][c.headlines[task]]
            pair = c.against_reference(task, name)
            mark = " *" if pair is not None and pair.p < SIGNIFICANT else ""
            cells.append(f"{number(e.value)} ({interval(e.low, e.high)}){mark}")
        lines.append(_row(cells))
    baselines = [number(_baseline(c, task)) for task in c.estimates]
    if any(baselines):
        lines.append(_row(["no image (baseline)", *("" for _ in c.columns), *baselines]))
    lines += [
        "",
        f"In brackets 95 % intervals from resampled test patients. * differs from {c.reference} on "
        f"the same patients, p < {SIGNIFICANT} by paired bootstrap, corrected for the number of "
        "pairs (Holm).",
        "",
        _row(["task", c.row, f"minus {c.reference}", "95 % interval", "p", "p corrected"]),
        _row(["---"] * 6),
    ]
    for task in c.estimates:
        for name in c.encoders:
            pair = c.against_reference(task, name)
            if pair is not None:
                cells = [task, name, f"{pair.difference.difference:+.3f}", pair.interval]
                lines.append(_row([*cells, f"{pair.difference.p:.3f}", f"{pair.p:.3f}"]))
    lines += ["", _row([c.row, "preprocessing"]), _row(["---"] * 2)]
    lines += [_row([name, facts["preprocessing"]]) for name, facts in c.encoders.items()]
    lines += [f"\nNot compared: {name}. {reason}" for name, reason in c.left_out.items()]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Every measure of every encoder and task, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = [*comparison.columns, "preprocessing"]
    values = ["value", "low", "high", "spread", "baseline"]
    writer.writerow(["task", comparison.row, *facts, "measure", *values, "p_against_reference"])
    for task, by_encoder in comparison.estimates.items():
        for name, estimates in by_encoder.items():
            for measure, estimate in estimates.items():
                pair = comparison.against_reference(task, name)
                corrected = pair.p if pair and measure == comparison.headlines[task] else None
                numbers = [*(getattr(estimate, key) for key in values), corrected]
                writer.writerow(
                    [
                        task,
                        name,
                        *(comparison.encoders[name].get(key, "") for key in facts),
                        measure,
                        *("" if n is None or math.isnan(n) else f"{n:.6g}" for n in numbers),
                    ]
                )
    return text.getvalue()


def to_html(comparison: Comparison, title: str, figure: str = "") -> str:
    """One self-contained page: a chart for each task, and the tables.

    Args:
        comparison: what it shows.
        title: of the page.
        figure: an SVG element above the rest.
    """
    return fill_page(
        "llava_rad.probing",
        "comparison.html.jinja",
        title=title,
        figure=figure,
        c=comparison,
        charts=[_chart(comparison, task) for task in comparison.estimates],
        measures={measure_label(name): text for name, text in MEASURES.items()},
        measure_label=measure_label,
        number=number,
        interval=interval,
        significant=SIGNIFICANT,
    )


def comparison_files(stem: str) -> dict[str, Callable[[Path], bool]]:
    """The files of a comparison by name, and how each is known.

    Args:
        stem: their name without its ending.
    """
    return {
        f"{stem}.json": lambda path: has_keys(path, "settings", "tasks", "pairs", "left_out"),
        f"{stem}.md": lambda path: starts_with(path, "| --- | --- |"),
        f"{stem}.csv": lambda path: starts_with(path, "task,", ",p_against_reference"),
        f"{stem}.html": lambda path: starts_with(path, f'<meta name="generator" content="{MAKER}"'),
    }


def save_comparison(
    comparison: Comparison, stem: Path, title: str, settings: dict[str, Any], figure: str = ""
) -> None:
    """Write a comparison as ``.md``, ``.csv``, ``.json`` and ``.html``.

    Args:
        comparison: what was measured.
        stem: of the four files; their folder is made if it is missing.
        title: of the page.
        settings: that it was made with, for the JSON file.
        figure: see :func:`to_html`.
    """
    content = {
        "settings": settings,
        f"{comparison.row}s": comparison.encoders,
        "tasks": {
            task: {name: to_plain(estimates) for name, estimates in by_encoder.items()}
            for task, by_encoder in comparison.estimates.items()
        },
        "pairs": [
            {**asdict(pair), "difference": difference_to_plain(pair.difference)}
            for pair in comparison.pairs
        ],
        "left_out": comparison.left_out,
    }
    for ending, text in (
        ("json", json.dumps(content, indent=1, allow_nan=False) + "\n"),
        ("md", to_markdown(comparison)),
        ("csv", to_csv(comparison)),
        ("html", to_html(comparison, title, figure)),
    ):
        write_result(stem.with_name(f"{stem.name}.{ending}"), text)


def _chart(c: Comparison, task: str) -> dict[str, Any]:
    """Points and intervals of a task, as shares of an axis."""
    measure = c.headlines[task]
    found = {name: c.estimates[task][name][measure] for name in c.encoders}
    baseline = _baseline(c, task)
    ends = [e for x in found.values() for e in (x.low, x.high, x.value)]
    ends = [e for e in [*ends, baseline] if e is not None and not math.isnan(e)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = (high - low) * 1.1 or 1.0
    start = low - span * 0.05

    def at(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else (value - start) / span

    return {
        "task": task,
        "measure": c.headline_label(task),
        "baseline": at(baseline),
        "baseline_text": number(baseline),
        "ends": [number(start), number(start + span)],
        "rows": [
            {
                "name": name,
                "at": at(e.value),
                "low": at(e.low),
                "high": at(e.high),
                "text": number(e.value),
                "interval": interval(e.low, e.high),
                "pair": c.against_reference(task, name),
            }
            for name, e in found.items()
        ],
    }


def _baseline(c: Comparison, task: str) -> float | None:
    return next(iter(c.estimates[task].values()))[c.headlines[task]].baseline


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
