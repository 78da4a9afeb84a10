"""Checks that stop a run whose numbers show that it has gone wrong, in all its processes.

A step leaves its numbers on the device and goes on. They are read together at the next line of the
log or checkpoint, so the host waits once for many steps. Until then a broken step changes nothing:
its gradient is taken as zero.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llava_rad.errors import TrainingError
from llava_rad.runs.distributed import local_part
from llava_rad.runs.together import gathered


@dataclass(frozen=True)
class _Step:
    number: int
    figures: Mapping[str, Tensor]
    losses: Sequence[Tensor]
    study_ids: Sequence[Sequence[str]]


class UnreadSteps:
    """Numbers of steps that have not been read back from the device.

    Args:
        accelerator: that all processes share.
        remedy: what to do about a number that is not finite.
    """

    def __init__(self, accelerator: Accelerator, remedy: str) -> None:
        self._accelerator = accelerator
        self._remedy = remedy
        self._steps: list[_Step] = []

    def add(
        self,
        step: int,
        figures: Mapping[str, Tensor],
        losses: Sequence[Tensor] = (),
        study_ids: Sequence[Sequence[str]] = (),
    ) -> None:
        """Add a step.

        Args:
            step: its number, counted from 0.
            figures: by name, [], detached; the same names in each step.
            losses: of this process's forward passes, to find whose studies they are.
            study_ids: studies of each forward pass.
        """
        self._steps.append(_Step(step, figures, losses, study_ids))

    def read(self) -> list[dict[str, float]]:
        """The figures of each step since the last call, averaged over the processes.

        Every process has to call this, after the same steps.

        Raises:
            TrainingError: a number is not finite, naming the first such step, its numbers and,
                where they are known, the studies; in all processes.
        """
        if not self._steps:
            return []
        steps, self._steps = self._steps, []
        names = list(steps[0].figures)
        stacked = torch.stack([torch.stack([s.figures[n].float() for n in names]) for s in steps])
        if self._accelerator.num_processes > 1:
            stacked = self._accelerator.reduce(stacked, "mean")
        rows = stacked.tolist()
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for step, figures in zip(steps, found, strict=True):
            broken = {n: value for n, value in figures.items() if not math.isfinite(value)}
            if broken:
                self._stop(step, broken)
        return found

    def _stop(self, step: _Step, broken: Mapping[str, float]) -> None:
        suspects: list[str] = []
        if step.study_ids:
            own = [
                study
                for loss, ids in zip(step.losses, step.study_ids, strict=True)
                if not math.isfinite(float(loss))
                for study in ids
            ]
            everyone = [study for ids in step.study_ids for study in ids]
            found = gathered(self._accelerator, (own, everyone))
            suspects = [study for part, _ in found for study in part]
            suspects = suspects or [study for _, part in found for study in part]
        error = TrainingError(
            "the " + " and the ".join(f"{name} is {value}" for name, value in broken.items()),
            where=f"step {step.number}" + (f", studies {', '.join(suspects)}" if suspects else ""),
            remedy=self._remedy,
            kind="not_finite",
        )
        error.told = not self._accelerator.is_main_process
        raise error


def drop_broken_gradient(parameters: Iterable[nn.Parameter], norm: Tensor) -> None:
    """Take a gradient as zero if its norm is not finite; the host does not wait to know.

    Args:
        parameters: whose gradients these are.
        norm: of all of them, [].
    """
    broken = ~torch.isfinite(norm)
    for parameter in parameters:
        if parameter.grad is not None:
            local_part(parameter.grad).masked_fill_(broken, 0)


def sums_of(parameters: Sequence[nn.Parameter]) -> list[float]:
    """Sum of each parameter's values held by this process, to notice that they change."""
    return [float(local_part(p).double().abs().sum()) for p in parameters]


def check_changed(before: Sequence[float], after: Sequence[float]) -> None:
    """Refuse to save a model that training has not changed.

    Raises:
        TrainingError: no parameter differs from before.
    """
    if list(before) == list(after):
        raise TrainingError(
            "training has changed no weight: the saved model would be the initial one",
            remedy="Check that the optimiser holds the model's own parameters",
            kind="nothing_trained",
        )
