"""Curves of a run's figures, as one picture of several panels."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rad.appearance.figures import LINES, SMALL, SOFT, columns_of, fit, note, save_png, styled
from llava_rad.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)

_WIDTH = 4.6  # inches of a panel
_MARKED = 12  # more points than these are a line without markers

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """Where something changes in a run.

    Attributes:
        at: its place on the horizontal axis.
        text: what changes, for the explanation below the panels.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        xlabel: below it, with the unit.
        ylabel: beside it, with the unit.
        left: points of each line by its label.
        right: the same for an axis of its own, in broken lines.
        right_label: beside that axis, with the unit.
        marks: changes in the run.
    """

    title: str
    xlabel: str
    ylabel: str
    left: Mapping[str, Points]
    right: Mapping[str, Points] | None = None
    right_label: str = ""
    marks: Sequence[Mark] = ()

    @property
    def lines(self) -> list[Points]:
        """All lines that have points."""
        return [points for points in [*self.left.values(), *(self.right or {}).values()] if points]


class Pace:
    """Says when a picture is due again: drawing one takes as long as many steps of a small model.

    Args:
        seconds: between two pictures; the first one comes as long after the beginning.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether so many seconds have passed since this was so."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def draw_panels(path: Path, panels: Sequence[Panel], title: str) -> None:
    """Draw panels into a PNG file; those without a point are left out.

    Nothing is written where no panel has a point. A picture that cannot be written is told of in a
    warning: no run ends for its picture.

    Args:
        path: of the file.
        panels: what is drawn. Changes in the run become numbered lines, explained below.
        title: of the picture.
    """
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return
    with styled():
        figure = panels_figure(panels, title)
        picture = save_png(figure, title, dpi=110)
        figure.clear()  # a figure's parts hold each other: they would stay until a collection
    try:
        write_bytes(path, picture)
    except OSError as error:
        _LOG.warning("%s cannot be drawn (%s)", path, error.strerror or error)


def panels_figure(panels: Sequence[Panel], title: str) -> "Figure":
    """The panels as matplotlib's figure, to be drawn and saved within the style of figures."""
    from matplotlib.figure import Figure

    told = list(dict.fromkeys(mark.text for panel in panels for mark in _within(panel)))
    columns = columns_of(len(panels))
    rows = -(-len(panels) // columns)
    width = _WIDTH * columns
    figure = Figure(figsize=(width, 3.7 * rows + 0.7), layout="constrained")
    figure.suptitle(fit(title, width - 0.2, 11, lines=1), x=0.01, ha="left", weight="bold")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, told)
    for axis in axes[len(panels) :]:
        axis.remove()
    if told:
        explained = " · ".join(f"{n}: {text}" for n, text in enumerate(told, start=1))
        note(figure, explained, inches=width - 0.2)
    return figure


def _draw(axis: Any, panel: Panel, told: list[str]) -> None:
    axis.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    axis.set_title(panel.title, pad=18 if panel.marks else None)
    lines = _plot(axis, panel.left, "-", 0)
    if panel.right is not None and any(panel.right.values()):
        other = axis.twinx()
        other.grid(visible=False)
        other.spines["right"].set_visible(True)
        other.set_ylabel(panel.right_label)
        lines += _plot(other, panel.right, "--", len(panel.left))
    if not any(panel.left.values()):
        axis.set_yticks([])
    at: dict[float, list[str]] = {}
    for mark in _within(panel):
        at.setdefault(mark.at, []).append(str(told.index(mark.text) + 1))
    for place, numbers in at.items():
        axis.axvline(place, color=SOFT, linestyle=":", linewidth=1.2)
        top = axis.get_xaxis_transform()
        axis.text(
            place, 1.02, ", ".join(numbers), transform=top, ha="center", size=SMALL, color=SOFT
        )
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19)}
    axis.legend(handles=lines, ncols=columns_of(len(lines)), columnspacing=1.2, **below)


def _within(panel: Panel) -> list[Mark]:
    """The marks up to where the run has come."""
    last = max((x for points in panel.lines for x, _ in points), default=0)
    return [mark for mark in panel.marks if 0 < mark.at <= last]


def _plot(axis: Any, lines: Mapping[str, Points], style: str, first_colour: int) -> list[Any]:
    drawn: list[Any] = []
    for number, (label, points) in enumerate(lines.items(), start=first_colour):
        if points:
            x, y = zip(*points, strict=True)
            options = {"marker": "o"} if len(points) <= _MARKED else {}
            colour = LINES[number % len(LINES)]
            drawn += axis.plot(x, y, style, color=colour, label=label, markersize=3.5, **options)
    return drawn
