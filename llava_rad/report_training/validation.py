"""Loss on studies that are not trained on."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llava_rad.encoders import Preprocessing
from llava_rad.report_training.batches import MicroBatch, collate
from llava_rad.report_training.samples import ReportSamples
from llava_rad.runs.order import by_length

#: Makes the tensors of a batch into the model's arguments, on the model's device.
ModelInputs = Callable[[MicroBatch], dict[str, Tensor]]


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
    totals = torch.zeros(2, dtype=torch.float64)  # loss, tokens
    for own, counts in share_out(len(batches), accelerator):
        samples = [data.sample(index) for index in batches[own]]
        batch = collate(samples, data, preprocessing)
        with accelerator.autocast():
            out = model(**inputs(batch))
        if counts:
            totals += torch.tensor([float(out.loss) * out.target_tokens, out.target_tokens])
    loss, tokens = accelerator.reduce(totals.to(accelerator.device), "sum").tolist()
    return loss / tokens


def share_out(items: int, accelerator: Accelerator) -> Sequence[tuple[int, bool]]:
    """(item, whether it counts) for this process.

    Every process gets equally many, because sharded models need all processes in each forward
    pass; what would be missing is filled up with items that do not count.
    """
    rounds = -(-items // accelerator.num_processes)
    own = [i * accelerator.num_processes + accelerator.process_index for i in range(rounds)]
    return [(min(item, items - 1), item < items) for item in own]
