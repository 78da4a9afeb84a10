"""What a run says while it goes on: means and rates, a line of progress, loss curves."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from llava_rad.report_training.config import STAGES
from llava_rad.runs.curves import Panel, draw_panels
from llava_rad.runs.log import read_metrics

CURVE_FILE = "loss.png"


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
    if sys.platform == "win32":
        import psutil  # which Accelerate brings

        return float(psutil.Process().memory_info().peak_wset) / 1e9
    import resource  # not on Windows

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
    rows = read_metrics(folder)
    panels = [
        Panel(
            stage,
            "step",
            {
                key.replace("_", " "): [
                    (r["step"], r[key]) for r in rows if r["stage"] == stage and key in r
                ]
                for key in ("loss", "validation_loss")
            },
            ylabel="cross-entropy per report token",
        )
        for stage in STAGES
        if any(row["stage"] == stage for row in rows)
    ]
    path = folder / CURVE_FILE
    draw_panels(path, panels or [Panel(STAGES[0], "step", {})])
    return path
