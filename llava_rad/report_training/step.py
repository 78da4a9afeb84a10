"""One optimiser step of report training.

Nothing in it reads a value back from the device, so the host is never kept waiting: a GPU works
through one step while the next is being prepared.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from llava_rad.report_training.batches import MicroBatch
from llava_rad.report_training.state import trained_parameters
from llava_rad.runs.checks import drop_broken_gradient
from llava_rad.runs.state import whole


class StepOutcome(NamedTuple):
    """What a step leaves on the device.

    Attributes:
        loss: mean over the target tokens of the whole step, []; the processes' average.
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
    batches: Sequence[MicroBatch],
    *,
    device: torch.device,
    targets: int,
    clip: float,
) -> StepOutcome:
    """Learn from the forward passes of one step.

    Each target token of the step's whole batch counts the same, whatever pass and process it is
    in. Accumulation and the average over processes divide, so their divisors come in here.

    Args:
        model: spread over the processes.
        optimiser: Accelerate's.
        accelerator: that all processes share, with its accumulation set to ``len(batches)``.
        batches: this process's.
        device: of the model.
        targets: target tokens of the step, in all processes.
        clip: largest norm of the gradient.
    """
    scale = len(batches) * accelerator.num_processes
    losses = []
    norm = torch.zeros(())
    for number, batch in enumerate(batches, start=1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(number == len(batches))
        with accelerator.accumulate(model):
            with accelerator.autocast():
                out = model(**batch.model_inputs(device))
            loss = out.loss * (batch.target_tokens / targets)
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
