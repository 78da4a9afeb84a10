"""What a run says while it goes on: metrics file, trackers, one line of progress, loss curves."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from llava_rad.errors import DataError
from llava_rad.readers import CONSTANTS, parse_json, read_text
from llava_rad.report_training.config import STAGES

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "loss.png"

Row = dict[str, Any]


class RunLog:
    """Metrics of a run, one JSON object a line; rows after the resumed step are dropped.

    Args:
        folder: of the run.
        stage: that is trained.
        step: that the stage goes on from.
        accelerator: whose trackers get each row too.
    """

    def __init__(self, folder: Path, stage: str, step: int, accelerator: Accelerator) -> None:
        self.path = folder / METRICS_FILE
        self.stage = stage
        self._accelerator = accelerator
        kept = [r for r in read_metrics(folder) if _before(r, stage, step)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        partial = self.path.with_name(f".{METRICS_FILE}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)
        self._written = {_kind(r) for r in kept if r["stage"] == stage}

    def write(self, step: int, **values: float) -> None:
        """Add a row, unless a resumed run repeats one that it kept."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        row = {"stage": self.stage, "step": step, "time": now, **values}
        if _kind(row) in self._written:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        named = {f"{self.stage}/{name}": value for name, value in values.items()}
        self._accelerator.log(named, step)


def _kind(row: Row) -> tuple[int, tuple[str, ...]]:
    return row["step"], tuple(sorted(row.keys() - {"time"}))


def _before(row: Row, stage: str, step: int) -> bool:
    own, current = STAGES.index(row["stage"]), STAGES.index(stage)
    return own < current or (own == current and step > 0 and row["step"] <= step)


def read_metrics(folder: Path) -> list[Row]:
    """The rows of a run; a last line that was cut off by a kill is left out."""
    path = folder / METRICS_FILE
    rows = []
    for line in read_text(path).splitlines() if path.exists() else []:
        try:
            rows.append(parse_json(line, where=path, constants=CONSTANTS))
        except DataError:
            break
    return rows


class Meter:
    """Sums between two lines of progress.

    Args:
        steps: of the stage.
        step: it goes on from.
    """

    def __init__(self, steps: int, step: int) -> None:
        self.steps = steps
        self._started, self._first = time.perf_counter(), step
        self._paused = 0.0
        self._clear()

    def _clear(self) -> None:
        self._since = time.perf_counter()
        self._loss = self._targets = self._studies = self._tokens = self._slots = 0.0

    def add(self, loss: float, targets: int, studies: int, tokens: int, slots: int) -> None:
        """Add one optimiser step.

        Args:
            loss: mean over its target tokens.
            targets: how many those are.
            studies: in the batch.
            tokens: without padding.
            slots: with padding.
        """
        self._loss += loss * targets
        self._targets += targets
        self._studies += studies
        self._tokens += tokens
        self._slots += slots

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done within: validation, samples, checkpoints."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._since += seconds
        self._paused += seconds

    def figures(self, step: int) -> dict[str, float]:
        """Means and rates since the last call."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        per_step = (now - self._started - self._paused) / max(step - self._first, 1)
        found = {
            "loss": self._loss / max(self._targets, 1),
            "studies_per_second": self._studies / elapsed,
            "tokens_per_second": self._tokens / elapsed,
            "padding": 1 - self._tokens / max(self._slots, 1),
            "memory_gb": memory_gb(),
            "seconds_left": per_step * (self.steps - step),
        }
        self._clear()
        return found


def memory_gb() -> float:
    """Peak memory of this process: of the GPU where there is one, else of the CPU; in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def progress_line(stage: str, step: int, steps: int, values: dict[str, float]) -> str:
    """One line for the terminal."""
    left = int(values["seconds_left"])
    return (
        f"{stage} {step}/{steps}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{values['studies_per_second']:.2f} studies/s  {values['tokens_per_second']:.0f} "
        f"tokens/s  padding {values['padding']:.1%}  {values['memory_gb']:.1f} GB  "
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
    )


def draw_curve(folder: Path) -> Path:
    """Draw training and validation loss of all stages into the run's folder."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    stages = [s for s in STAGES if any(r["stage"] == s for r in rows)]
    figure = Figure(figsize=(5 * max(len(stages), 1), 3.6), layout="constrained")
    axes = figure.subplots(1, max(len(stages), 1), squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=False):
        for key, style in (("loss", "-"), ("validation_loss", "o-")):
            points = _points(rows, stage, key)
            if points:
                axis.plot(*zip(*points, strict=True), style, label=key.replace("_", " "))
        axis.set(title=stage, xlabel="step", ylabel="cross-entropy per report token")
        axis.grid(alpha=0.3)
        axis.legend()
    path = folder / CURVE_FILE
    figure.savefig(path, dpi=120)
    return path


def _points(rows: Iterable[Row], stage: str, key: str) -> list[tuple[int, float]]:
    return [(r["step"], r[key]) for r in rows if r["stage"] == stage and key in r]
