"""One optimiser step of report training.

Nothing in it reads a value back from the device, so the host is never kept waiting: a GPU works
through one step while the next is being prepared.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from llava_rad.report_training.state import trained_parameters
from llava_rad.runs.checks import drop_broken_gradient
from llava_rad.runs.state import whole

Lesson = TypeVar("Lesson")


class StepOutcome(NamedTuple):
    """What a step leaves on the device.

    Attributes:
        loss: of the whole step, []; the processes' average.
        norm: of the gradient before it was clipped, [].
        losses: of this process's forward passes, [] each.
    """

    loss: Tensor
    norm: Tensor
    losses: list[Tensor]


def take_step(
    model: Any,
    optimiser: Any,
    accelerator: Accelerator,
    lessons: Sequence[Lesson],
    loss_of: Callable[[Lesson], Tensor],
    *,
    clip: float,
) -> StepOutcome:
    """Learn from the forward passes of one step.

    Accumulation and the average over processes divide, so their divisors come in here.

    Args:
        model: spread over the processes.
        optimiser: Accelerate's.
        accelerator: that all processes share, with its accumulation set to ``len(lessons)``.
        lessons: this process's, one a forward pass.
        loss_of: makes the forward pass of a lesson, under autocast: its share in the loss of the
            whole step, [].
        clip: largest norm of the gradient.
    """
    scale = len(lessons) * accelerator.num_processes
    losses = []
    norm = torch.zeros(())
    for number, lesson in enumerate(lessons, start=1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(number == len(lessons))
        with accelerator.accumulate(model):
            with accelerator.autocast():
                loss = loss_of(lesson)
            accelerator.backward(loss * scale)
            losses.append(loss.detach())
            if accelerator.sync_gradients:
                # Only now: before a backward pass FSDP2 may show gathered weights in their place.
                parameters = trained_parameters(accelerator.unwrap_model(model))
                norm = whole(torch.as_tensor(accelerator.clip_grad_norm_(parameters, clip)))
                drop_broken_gradient(parameters, norm)
            optimiser.step()
            optimiser.zero_grad()
    total = torch.stack(losses).sum() * accelerator.num_processes
    return StepOutcome(total, norm.to(total.device), losses)
