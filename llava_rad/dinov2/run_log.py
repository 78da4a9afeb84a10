"""What a run leaves behind about itself: metrics, one JSON object a line, and a picture of them."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError
from llava_rad.readers import CONSTANTS, parse_json, read_text

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"

Row = dict[str, Any]


class RunLog:
    """Appends to the metrics of a run.

    Args:
        folder: of the run.
        step: that the run goes on from; rows after it are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= step] if step else []
        partial = self.path.with_name(f".{METRICS_FILE}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        partial.replace(self.path)

    def write(self, step: int, epoch: float, **figures: float) -> None:
        """Add a row."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        row = {"step": step, "epoch": epoch, "time": now, **figures}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_metrics(folder: Path) -> list[Row]:
    """Return the rows of a run; a last line that was cut off by a kill is left out."""
    path = folder / METRICS_FILE
    rows = []
    for line in read_text(path).splitlines() if path.exists() else []:
        try:
            rows.append(parse_json(line, where=path, constants=CONSTANTS))
        except DataError:
            break
    return rows


def draw_curves(folder: Path) -> Path:
    """Draw all metrics of a run over its epochs into ``curves.png`` and return its path."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    probes = sorted({name for row in rows for name in row if name.startswith("probe ")})
    panels: list[tuple[str, Sequence[str], Sequence[str]]] = [
        ("losses", ["total", "dino", "ibot"], ["koleo"]),
        ("teacher's assignments, share of the largest", ["target_entropy", "prototypes_used"], []),
        ("teacher's features", ["feature_spread"], ["effective_rank"]),
    ]
    if probes:
        errors = [name for name in probes if name.endswith(" error")]
        panels.append(("probe on the teacher", [p for p in probes if p not in errors], errors))
    figure = Figure(figsize=(4.6 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, left, right) in zip(axes, panels, strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        lines = _plot(axis, rows, left, "-", 0)
        if right:
            lines += _plot(axis.twinx(), rows, right, "--", len(left))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        axis.legend(handles=lines, frameon=False, fontsize="small", **below)
    path = folder / CURVES_FILE
    figure.savefig(path, dpi=110)
    return path


def _plot(
    axis: Any, rows: list[Row], names: Sequence[str], style: str, first_colour: int
) -> list[Any]:
    """Plot metrics by epoch; those with a broken line have the right-hand axis."""
    lines = []
    for number, name in enumerate(names):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            label = name.removeprefix("probe ").replace("_", " ")
            colour = f"C{first_colour + number}"
            lines += axis.plot(
                *zip(*points, strict=True), style, color=colour, label=label, marker="."
            )
    return lines
