"""Checks that stop a run whose numbers show that it has gone wrong, in all its processes."""

import math
from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from llava_rad.errors import TrainingError
from llava_rad.runs.distributed import local_part


def check_finite(
    figures: Mapping[str, float],
    step: int,
    accelerator: Accelerator,
    *,
    remedy: str,
    losses: Sequence[Tensor] = (),
    study_ids: Sequence[Sequence[str]] = (),
) -> None:
    """Stop every process at the same step where a number is not finite.

    Args:
        figures: by name, the same in all processes.
        step: that they belong to.
        accelerator: that all processes share.
        remedy: what to do about it.
        losses: of this process's forward passes, to find whose studies they are.
        study_ids: studies of each forward pass.

    Raises:
        TrainingError: naming numbers, step and studies, in all processes.
    """
    broken = {name: value for name, value in figures.items() if not math.isfinite(value)}
    if not broken:
        return
    suspects: list[str] = []
    if study_ids:
        own = [
            study
            for loss, ids in zip(losses, study_ids, strict=True)
            if not math.isfinite(float(loss))
            for study in ids
        ]
        everyone = [study for ids in study_ids for study in ids]
        found = gather_object([(own, everyone)])
        suspects = [study for part, _ in found for study in part]
        suspects = suspects or [study for _, part in found for study in part]
    error = TrainingError(
        "the " + " and the ".join(f"{name} is {value}" for name, value in broken.items()),
        where=f"step {step}" + (f", studies {', '.join(suspects)}" if suspects else ""),
        remedy=remedy,
        kind="not_finite",
    )
    error.told = not accelerator.is_main_process
    raise error


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
