"""Curves of a run's figures, as one picture of several panels."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.files import write_bytes

_LOG = logging.getLogger(__name__)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        xlabel: below it.
        left: points of each line by its label.
        right: the same for an axis of its own, in broken lines.
        ylabel: beside it.
        marker: of the points.
    """

    title: str
    xlabel: str
    left: dict[str, Points]
    right: dict[str, Points] | None = None
    ylabel: str = ""
    marker: str = "."


def draw_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels side by side into a PNG file.

    A picture that cannot be written is told of in a warning: no run ends for its picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        axis.grid(alpha=0.3)
        lines = _plot(axis, panel.left, "-", panel.marker, 0)
        if panel.right is not None:
            lines += _plot(axis.twinx(), panel.right, "--", panel.marker, len(panel.left))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        axis.legend(handles=lines, frameon=False, fontsize="small", **below)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    figure.clear()  # a figure's parts hold each other: they would stay until the next collection
    try:
        write_bytes(path, picture.getvalue())
    except OSError as error:
        _LOG.warning("%s cannot be drawn (%s)", path, error.strerror or error)


def _plot(
    axis: Any, lines: dict[str, Points], style: str, marker: str, first_colour: int
) -> list[Any]:
    drawn: list[Any] = []
    for number, (label, points) in enumerate(lines.items()):
        if points:
            x, y = zip(*points, strict=True)
            colour = f"C{first_colour + number}"
            drawn += axis.plot(x, y, style, color=colour, label=label, marker=marker)
    return drawn
