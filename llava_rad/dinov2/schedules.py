"""Learning rate, weight decay, teacher momentum and temperature as functions of the step."""

import math
from dataclasses import dataclass

from llava_rad.dinov2.config import OptimiserConfig, ScheduleConfig


@dataclass(frozen=True)
class StepValues:
    """What one optimiser step uses."""

    lr: float
    last_layer_lr: float
    backbone_lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


def cosine(start: float, end: float, progress: float) -> float:
    """Go from ``start`` at progress 0 to ``end`` at progress 1 along half a cosine."""
    progress = min(max(progress, 0.0), 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def scaled_lr(config: OptimiserConfig, effective_batch: int) -> float:
    """Return the peak learning rate for an effective batch, from the rate stated for 1,024."""
    ratio = effective_batch / 1024
    if config.scaling == "sqrt":
        return config.base_lr * math.sqrt(ratio)
    return config.base_lr * ratio if config.scaling == "linear" else config.base_lr


class Schedules:
    """All schedules of a run.

    Args:
        config: lengths in epochs, starts and ends.
        peak_lr: learning rate after the warm-up.
        min_lr: learning rate at the end.
        epoch_steps: optimiser steps per epoch.
    """

    def __init__(
        self, config: ScheduleConfig, peak_lr: float, min_lr: float, epoch_steps: int
    ) -> None:
        self.config = config
        self.peak_lr = peak_lr
        self.min_lr = min_lr
        self.epoch_steps = epoch_steps
        self.steps = max(1, round(config.epochs * epoch_steps))

    def at(self, step: int) -> StepValues:
        """Return the values of step ``step``, counted from 0."""
        config = self.config
        temperature_steps = self._steps(config.temperature_epochs)
        lr = self._lr(step)
        cold, warm = config.teacher_temperature
        warming = min(1.0, step / (temperature_steps - 1)) if temperature_steps > 1 else 1.0
        heads_only = self._steps(config.heads_only_epochs)
        return StepValues(
            lr=lr,
            last_layer_lr=0.0 if step < self._steps(config.freeze_last_layer_epochs) else lr,
            # The backbone has its own warm-up, after the time in which only the heads train.
            backbone_lr=0.0 if step < heads_only else min(lr, self._lr(step - heads_only)),
            weight_decay=cosine(*config.weight_decay, step / self.steps),
            momentum=cosine(*config.momentum, step / self.steps),
            teacher_temperature=cold + (warm - cold) * warming,
        )

    def _steps(self, epochs: float) -> int:
        return round(epochs * self.epoch_steps)

    def _lr(self, step: int) -> float:
        warmup = self._steps(self.config.warmup_epochs)
        if step < warmup:
            return self.peak_lr * step / max(warmup - 1, 1)
        return cosine(self.peak_lr, self.min_lr, (step - warmup) / (self.steps - warmup))
