"""Loss on studies that are not trained on."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from llava_rad.encoders import Preprocessing
from llava_rad.report_training.batches import MicroBatch, collate
from llava_rad.report_training.samples import ReportSamples
from llava_rad.runs.order import by_length

#: Makes the tensors of a batch into the model's arguments, on the model's device.
ModelInputs = Callable[[MicroBatch], dict[str, Any]]


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    data: ReportSamples,
    batch_size: int,
    inputs: ModelInputs,
    accelerator: Accelerator,
    preprocessing: Preprocessing | None,
) -> float:
    """Mean cross-entropy over all report tokens of a split, each token counting once.

    The model is left in evaluation mode.

    Args:
        model: prepared for the accelerator.
        data: the split, with nothing left out.
        batch_size: studies of a forward pass of one process.
        inputs: see :data:`ModelInputs`.
        accelerator: all processes call this together, each takes its share of the batches.
        preprocessing: reads images; None where their patch tokens are cached.
    """
    model.eval()
    batches = by_length(data.lengths, batch_size)
    losses, tokens = [torch.zeros((), device=accelerator.device)], [0]  # read back once, at the end
    for number, counts in share_out(len(batches), accelerator):
        samples = [data.sample(index) for index in batches[number]]
        batch = collate(samples, data, preprocessing)
        with accelerator.autocast():
            out = model(**inputs(batch))
        if counts:
            losses.append(out.loss)
            tokens.append(batch.target_tokens)
    weights = torch.tensor(tokens, dtype=torch.float64)
    own = torch.stack([(torch.stack(losses).cpu().double() * weights).sum(), weights.sum()])
    loss, count = accelerator.reduce(own.to(accelerator.device), "sum").tolist()
    return loss / count


def share_out(items: int, accelerator: Accelerator) -> Sequence[tuple[int, bool]]:
    """(item, whether it counts) for this process.

    Every process gets equally many, because sharded models need all processes in each forward
    pass; what would be missing is filled up with items that do not count.
    """
    rounds = -(-items // accelerator.num_processes)
    own = [i * accelerator.num_processes + accelerator.process_index for i in range(rounds)]
    return [(min(item, items - 1), item < items) for item in own]
