"""Encoders times tasks: one table, with intervals and paired differences, in four formats."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_rad.probing.outcome import Difference, Estimate
from llava_rad.probing.record import MEASURES, interval, number

SIGNIFICANT = 0.05


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
    """

    encoders: dict[str, dict[str, Any]]
    estimates: dict[str, dict[str, dict[str, Estimate]]]
    headlines: dict[str, str]
    lower_is_better: tuple[str, ...]
    pairs: tuple[Pair, ...]
    reference: str
    left_out: dict[str, str]

    def against_reference(self, task: str, encoder: str) -> Pair | None:
        """The encoder minus the reference on a task; None for the reference itself."""
        for pair in self.pairs:
            if pair.task == task and pair.first == encoder and pair.second == self.reference:
                return pair
        return None


def to_markdown(comparison: Comparison) -> str:
    """The table of headlines, and under it the differences to the reference."""
    c = comparison
    titles = [
        f"{task} ({c.headlines[task]}{', lower is better' if task in c.lower_is_better else ''})"
        for task in c.estimates
    ]
    head = ["encoder", "input", "tokens", "parameters", *titles]
    lines = [_row(head), _row(["---"] * len(head))]
    for name, facts in c.encoders.items():
        cells = [name, f"{facts['input_size']} px", str(facts["tokens"])]
        cells.append(f"{facts['parameters']:,}")
        for task, by_encoder in c.estimates.items():
            e = by_encoder[name][c.headlines[task]]
            pair = c.against_reference(task, name)
            mark = " *" if pair is not None and pair.p < SIGNIFICANT else ""
            cells.append(f"{number(e.value)} ({interval(e.low, e.high)}){mark}")
        lines.append(_row(cells))
    floors = [number(_floor(c, task)) for task in c.estimates]
    if any(floors):
        lines.append(_row(["no image (floor)", "", "", "", *floors]))
    lines += [
        "",
        f"In brackets 95 % intervals from resampled test patients. * differs from {c.reference} on "
        f"the same patients, p < {SIGNIFICANT} by paired bootstrap, corrected for the number of "
        "pairs (Holm).",
        "",
        _row(["task", "encoder", f"minus {c.reference}", "95 % interval", "p", "p corrected"]),
        _row(["---"] * 6),
    ]
    for task in c.estimates:
        for name in c.encoders:
            pair = c.against_reference(task, name)
            if pair is not None:
                d = pair.difference
                cells = [task, name, f"{d.difference:+.3f}", interval(d.low, d.high)]
                lines.append(_row([*cells, f"{d.p:.3f}", f"{pair.p:.3f}"]))
    lines += ["", _row(["encoder", "preprocessing"]), _row(["---"] * 2)]
    lines += [_row([name, facts["preprocessing"]]) for name, facts in c.encoders.items()]
    lines += [f"\nNot compared: {name}. {reason}" for name, reason in c.left_out.items()]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Every measure of every encoder and task, a line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = ["input_size", "tokens", "parameters", "preprocessing"]
    values = ["value", "low", "high", "spread", "floor"]
    writer.writerow(["task", "encoder", *facts, "measure", *values, "p_against_reference"])
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
                        *(comparison.encoders[name][key] for key in facts),
                        measure,
                        *("" if n is None or math.isnan(n) else f"{n:.6g}" for n in numbers),
                    ]
                )
    return text.getvalue()


def to_html(comparison: Comparison, title: str) -> str:
    """One self-contained page: a chart for each task, and the tables."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("llava_rad.probing", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html.jinja").render(
        title=title,
        c=comparison,
        charts=[_chart(comparison, task) for task in comparison.estimates],
        measures=MEASURES,
        number=number,
        interval=interval,
        significant=SIGNIFICANT,
    )


def _chart(c: Comparison, task: str) -> dict[str, Any]:
    """Points and intervals of a task, as shares of an axis."""
    measure = c.headlines[task]
    found = {name: c.estimates[task][name][measure] for name in c.encoders}
    floor = _floor(c, task)
    ends = [e for x in found.values() for e in (x.low, x.high, x.value)]
    ends = [e for e in [*ends, floor] if e is not None and not math.isnan(e)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = (high - low) * 1.1 or 1.0
    start = low - span * 0.05

    def at(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else (value - start) / span

    return {
        "task": task,
        "measure": measure,
        "lower": task in c.lower_is_better,
        "floor": at(floor),
        "floor_text": number(floor),
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


def _floor(c: Comparison, task: str) -> float | None:
    return next(iter(c.estimates[task].values()))[c.headlines[task]].floor


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
