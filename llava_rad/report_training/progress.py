"""What a run says while it goes on: means and rates, a line of progress, loss curves."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.runs.curves import Panel, Points, draw_panels
from llava_rad.runs.log import Row, read_metrics

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
        self._targets: list[int] = []
        self._losses: list[float] = []
        self._studies = self._tokens = self._slots = 0.0

    def add(self, targets: int, studies: int, tokens: int, slots: int) -> None:
        """Add one optimiser step.

        Args:
            targets: tokens that are learnt.
            studies: in the batch.
            tokens: without padding.
            slots: with padding.
        """
        self._targets.append(targets)
        self._studies += studies
        self._tokens += tokens
        self._slots += slots

    def add_losses(self, losses: Sequence[float]) -> None:
        """Add the losses of steps in their order, each a mean over its target tokens.

        They may come later than :meth:`add`, for many steps together.
        """
        self._losses += losses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done within: validation, samples, checkpoints."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._since += seconds
        self._paused += seconds

    def figures(self, step: int) -> dict[str, float]:
        """Means and rates since the last call; the losses of all steps have come."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        per_step = (now - self._started - self._paused) / max(step - self._first, 1)
        found = {
            "loss": float(np.average(self._losses, weights=self._targets)),
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
    worth = ""
    if "reward" in values:
        worth = f"reward {values['reward']:.4f}  distinct {values['distinct']:.1%}  "
    return (
        f"{stage} {step}/{steps}  {worth}loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{values['studies_per_second']:.2f} studies/s  {values['tokens_per_second']:.0f} "
        f"tokens/s  padding {values['padding']:.1%}  {values['memory_gb']:.1f} GB  "
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
    )


def draw_curve(folder: Path, config: ReportTrainingConfig) -> Path:
    """Draw losses, and rewards where they are learnt from, into the run's folder.

    Args:
        folder: of the run; one that has logged nothing gets no picture.
        config: of the run, for its stages and what is trained in each.
    """
    rows = read_metrics(folder)
    panels = []
    for stage in config.stages:
        own = [row for row in rows if row["stage"] == stage]
        panels.append(_rewards(own) if stage == "reinforce" else _losses(own, stage, config))
    path = folder / CURVE_FILE
    draw_panels(path, panels, f"Training of {config.name or folder.name}")
    return path


def _losses(rows: Sequence[Row], stage: str, config: ReportTrainingConfig) -> Panel:
    lines: dict[str, Points] = {"training": _points(rows, "loss")}
    if validation := _points(rows, "validation_loss"):
        step, lowest = min(validation, key=lambda point: point[1])
        lines[f"validation, lowest {lowest:.3f} at {step}"] = validation
    trained = "adapter"
    if stage == "finetune":
        trained += " and the LLM's LoRA" if config.lora else " and LLM"
    title, ylabel = f"{stage}: {trained} trained", "cross-entropy per report token, nats"
    return Panel(title, "optimiser step", ylabel, lines)


def _rewards(rows: Sequence[Row]) -> Panel:
    lines: dict[str, Points] = {"drawn reports": _points(rows, "reward")}
    if greedy := _points(rows, "baseline"):
        lines["greedy reports"] = greedy
    if validation := _points(rows, "validation_reward"):
        step, highest = max(validation, key=lambda point: point[1])
        lines[f"validation, highest {highest:.3f} at {step}"] = validation
    return Panel(
        "reinforce: adapter and the LLM's LoRA trained",
        "optimiser step",
        "reward",
        lines,
        right={"distinct": _points(rows, "distinct")},
        right_label="distinct reports, share",
    )


def _points(rows: Sequence[Row], name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if name in row]
