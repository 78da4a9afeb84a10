"""The curves of a pretraining run: losses, the teacher's assignments and features, its probe."""

from collections.abc import Sequence
from pathlib import Path

from llava_rad.runs.curves import Panel, Points, draw_panels
from llava_rad.runs.log import Row, read_metrics

CURVES_FILE = "curves.png"


def draw_curves(folder: Path) -> Path:
    """Draw all metrics of a run over its epochs into ``curves.png`` and return its path."""
    rows = read_metrics(folder)
    panels = [
        _panel(rows, "losses", ["total", "dino", "ibot"], ["koleo"]),
        _panel(
            rows,
            "teacher's assignments, share of the largest",
            ["target_entropy", "prototypes_used"],
        ),
        _panel(rows, "teacher's features", ["feature_spread"], ["effective_rank"]),
    ]
    if probes := sorted({name for row in rows for name in row if name.startswith("probe ")}):
        errors = [name for name in probes if name.endswith(" error")]
        shares = [name for name in probes if name not in errors]
        panels.append(_panel(rows, "probe on the teacher", shares, errors))
    path = folder / CURVES_FILE
    draw_panels(path, panels)
    return path


def _panel(rows: list[Row], title: str, left: Sequence[str], right: Sequence[str] = ()) -> Panel:
    def lines(names: Sequence[str]) -> dict[str, Points]:
        return {
            name.removeprefix("probe ").replace("_", " "): [
                (row["epoch"], row[name]) for row in rows if name in row
            ]
            for name in names
        }

    return Panel(title, "epoch", lines(left), lines(right) if right else None)
