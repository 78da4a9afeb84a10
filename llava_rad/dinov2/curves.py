"""The curves of a pretraining run: losses, the teacher's assignments and features, its probe."""

from collections.abc import Mapping
from pathlib import Path

from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.runs.curves import Mark, Panel, Points, draw_panels
from llava_rad.runs.log import Row, read_metrics

CURVES_FILE = "curves.png"


def draw_curves(folder: Path, config: PretrainingConfig) -> Path:
    """Draw all metrics of a run over its epochs into ``curves.png`` and return its path.

    Args:
        folder: of the run; one that has logged nothing gets no picture.
        config: of the run, for what changes in its course.
    """
    rows = read_metrics(folder)
    marks = schedule_marks(config)

    def panel(
        title: str,
        left: tuple[str, Mapping[str, str]],
        right: tuple[str, Mapping[str, str]] | None = None,
    ) -> Panel:
        def lines(side: tuple[str, Mapping[str, str]]) -> dict[str, Points]:
            return {label: _points(rows, name) for name, label in side[1].items()}

        if right is None:
            return Panel(title, "epoch", left[0], lines(left), marks=marks)
        return Panel(title, "epoch", left[0], lines(left), lines(right), right[0], marks)

    names = sorted({name for row in rows for name in row if name.startswith("probe ")})
    probes = {name: name.removeprefix("probe ").removesuffix(" AUROC") for name in names}
    errors = {name: "age" for name in probes if name.endswith(" error")}
    path = folder / CURVES_FILE
    draw_panels(
        path,
        [
            panel(
                "Losses",
                (
                    "nats",
                    {
                        "total": "total",
                        "dino": "DINO",
                        "ibot": "iBOT",
                        "divergence": "divergence of the student from the teacher",
                    },
                ),
                ("KoLeo, nats", {"koleo": "KoLeo (right)"}),
            ),
            panel(
                "Teacher's assignments",
                (
                    "share of the largest possible",
                    {
                        "entropy": "entropy, each step",
                        "target_entropy": "entropy",
                        "prototypes_used": "prototypes used",
                    },
                ),
            ),
            panel(
                "Teacher's features",
                (
                    "0 all equal, 1 over the sphere",
                    {"spread": "spread, each step", "feature_spread": "spread"},
                ),
                ("directions", {"effective_rank": "effective rank (right)"}),
            ),
            panel(
                "Probe, validation patients",
                ("AUROC, 0.5 is chance", {n: probes[n] for n in probes if n not in errors}),
                ("mean error, years", dict.fromkeys(errors, "age (right)")),
            ),
        ],
        f"Pretraining of {config.backbone.encoder or config.backbone.architecture}",
    )
    return path


def schedule_marks(config: PretrainingConfig) -> list[Mark]:
    """What changes in the course of a run, by epoch."""
    schedule, high = config.schedule, config.high_resolution
    cold, warm = schedule.teacher_temperature
    marks = [
        Mark(schedule.heads_only_epochs, "the backbone trains too"),
        Mark(schedule.freeze_last_layer_epochs, "the prototypes train too"),
        Mark(
            schedule.heads_only_epochs + schedule.warmup_epochs,
            "the learning rate is at its peak",
        ),
    ]
    if cold != warm:
        marks.append(
            Mark(schedule.temperature_epochs, f"the teacher's temperature has come to {warm:g}")
        )
    if high is not None:
        start = schedule.epochs - high.epochs
        marks.append(Mark(start, f"crops of {high.global_size} px from here"))
    return sorted((mark for mark in marks if mark.at > 0), key=lambda mark: mark.at)


def _points(rows: list[Row], name: str) -> Points:
    return [(row["epoch"], row[name]) for row in rows if name in row]
