"""Checks that stop a run whose numbers show that it has gone wrong."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llava_rad.errors import TrainingError
from llava_rad.runs.distributed import local_part


def check_finite(what: str, value: Tensor, step: int, study_ids: Sequence[str]) -> None:
    """Stop before a number that is not finite reaches the weights.

    Raises:
        TrainingError: naming the step and the studies.
    """
    if not torch.isfinite(value).all():
        raise TrainingError(
            f"the {what} is {float(value)}",
            where=f"step {step}, studies {', '.join(study_ids)}",
            remedy="The last checkpoint is good: start again with a lower lr, or precision=fp32, "
            "or without these studies",
            kind="not_finite",
        )


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
