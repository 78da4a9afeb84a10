"""What a change does to each task, as a picture: values over the change, with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_rad.appearance.figures import (
    INK,
    LINES,
    SOFT,
    columns_of,
    note,
    on_page,
    save_png,
    save_svg,
    styled,
)
from llava_rad.outputs import write_bytes_result, write_result
from llava_rad.probing.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curves:
    """A comparison whose rows are values of something that was changed.

    Attributes:
        comparison: all rows.
        axis: what was changed.
        x: places of the changed rows on the axis, None for categories.
        log: whether the axis is logarithmic.
        baselines: for each changed row the one it has to beat, if there is one.
        repeats: by task and row, the headline of each repetition where there are several.
    """

    comparison: Comparison
    axis: str
    x: Mapping[str, float | None]
    log: bool = False
    baselines: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """The changed rows that were measured."""
        return [name for name in self.x if name in self.comparison.encoders]


def draw_curves(curves: Curves) -> "Figure":
    """A panel a task: values with 95 % intervals, baselines dashed, other rows as lines.

    Numbers lie on a horizontal axis; categories are listed from top to bottom.
    """
    with styled():
        return _drawn(curves)


def _drawn(curves: Curves) -> "Figure":
    from matplotlib.figure import Figure

    c = curves.comparison
    columns = columns_of(len(c.estimates))
    lines = math.ceil(len(c.estimates) / columns)
    numeric = all(curves.x[name] is not None for name in curves.rows)
    height = 3.3 if numeric else 1.6 + 0.42 * len(curves.rows)
    width = 4.2 * columns + 0.4
    figure = Figure(figsize=(width, height * lines + 1.1), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=not numeric).flat)
    for panel, task in zip(panels, c.estimates, strict=False):
        panel.set_title(task)
        (panel.set_ylabel if numeric else panel.set_xlabel)(c.headline_label(task))
        _draw_task(panel, curves, task, numeric)
    if not numeric:
        for panel in panels[::columns]:
            panel.set_ylabel(curves.axis)
    for panel in panels[len(c.estimates) :]:
        panel.remove()
    named: dict[str, Any] = {}
    for panel in figure.axes:  # a line need not be in every panel
        named |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside upper left", ncols=max(2, 2 * columns)
    )
    explained = "Bars: 95 % intervals from resampled test patients."
    if any(len(values) > 1 for rows in curves.repeats.values() for values in rows.values()):
        explained += " Small dots: single pretrainings, of which a value is the mean."
    note(figure, explained, inches=width - 0.2)
    return figure


def save_curves(figure: "Figure", stem: Path, title: str) -> str:
    """Write a figure as ``.png`` and ``.svg``.

    Args:
        figure: from :func:`draw_curves`.
        stem: of both files.
        title: of the picture.

    Returns:
        The SVG element, for a page: it takes the page's colour of text, light or dark.
    """
    write_bytes_result(stem.with_name(f"{stem.name}.png"), save_png(figure, title))
    svg = save_svg(figure, title)
    write_result(stem.with_name(f"{stem.name}.svg"), svg)
    return on_page(svg)


def _draw_task(panel: Any, curves: Curves, task: str, numeric: bool) -> None:
    """One panel; what varies goes to the right where it is a number, else downwards."""
    names = curves.rows
    places = np.arange(len(names), dtype=np.float64)
    if numeric:
        names = sorted(names, key=lambda name: curves.x[name] or 0.0)
        places = np.array([curves.x[name] for name in names], dtype=np.float64)

    def plot(places: Any, values: Any, style: str, **options: Any) -> None:
        panel.plot(*((places, values) if numeric else (values, places)), style, **options)

    across = panel.axhline if numeric else panel.axvline
    values = _values(curves, task, names)
    plot(places, values, "o-" if numeric else "o", color=LINES[0], label="pretrained")
    panel.errorbar(
        *((places, values) if numeric else (values, places)),
        **{"yerr" if numeric else "xerr": _whiskers(curves, task, names)},
        fmt="none",
        color=LINES[0],
        capsize=3,
    )
    for place, name in zip(places, names, strict=True):
        repeats = curves.repeats.get(task, {}).get(name, ())
        plot([place] * len(repeats), repeats, ".", color=INK, markersize=4, zorder=3)
    known = [index for index, name in enumerate(names) if name in curves.baselines]
    baselines = _values(curves, task, [curves.baselines[names[index]] for index in known])
    plot(places[known], baselines, "--" if numeric else "s", color=SOFT, label="random weights")
    others = [
        n for n in curves.comparison.encoders if n not in {*names, *curves.baselines.values()}
    ]
    for number, name in enumerate(others, start=1):
        (value,) = _values(curves, task, [name])
        across(value, linestyle="-.", linewidth=1, color=LINES[number % len(LINES)], label=name)
    baseline = next(iter(curves.comparison.estimates[task].values()))[
        curves.comparison.headlines[task]
    ].baseline
    if baseline is not None:
        across(baseline, linestyle=":", linewidth=1, color=SOFT, label="no image")
    if numeric:
        if curves.log:
            panel.set_xscale("log")
        panel.set_xticks(places, [f"{place:g}" for place in places])
        panel.minorticks_off()
        panel.set_xlabel(curves.axis)
    else:
        panel.set_yticks(places, names)
        panel.set_ylim(len(names) - 0.5, -0.5)


def _values(curves: Curves, task: str, names: Sequence[str]) -> list[float]:
    c = curves.comparison
    return [c.estimates[task][name][c.headlines[task]].value for name in names]


def _whiskers(curves: Curves, task: str, names: Sequence[str]) -> np.ndarray:
    """Lengths of the intervals below and above the values, [2, names]."""
    c = curves.comparison
    estimates = [c.estimates[task][name][c.headlines[task]] for name in names]
    # A value over all fits may lie a little outside of an interval from resamples.
    lengths = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    return np.maximum(np.array(lengths, dtype=np.float64), 0)
