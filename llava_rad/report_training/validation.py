"""Loss on studies that are not trained on."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from llava_rad.report_training.batches import Images, MicroBatch, collate, load_batches
from llava_rad.report_training.samples import ReportSamples
from llava_rad.runs.order import by_length


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    data: ReportSamples,
    batch_size: int,
    accelerator: Accelerator,
    images: Images,
    workers: int,
) -> float:
    """Mean cross-entropy over all report tokens of a split, each token counting once.

    The model is left in evaluation mode.

    Args:
        model: prepared for the accelerator.
        data: the split, with nothing left out.
        batch_size: studies of a forward pass of one process.
        accelerator: all processes call this together, each takes its share of the batches.
        images: where those of the studies come from.
        workers: processes that read ahead.
    """
    model.eval()
    batches = WholeBatches(data, by_length(data.lengths, batch_size), images)
    shares = share_out(len(batches.places), accelerator)
    numbers, device = [number for number, _ in shares], accelerator.device
    loaded = load_batches(batches, numbers, images, workers, pin=device.type == "cuda")
    losses, tokens = [torch.zeros((), device=device)], [0]  # read back once, at the end
    for batch, (_, counts) in zip(loaded, shares, strict=True):
        with accelerator.autocast():
            out = model(**batch.model_inputs(device))
        if counts:
            losses.append(out.loss)
            tokens.append(batch.target_tokens)
    weights = torch.tensor(tokens, dtype=torch.float64)
    own = torch.stack([(torch.stack(losses).cpu().double() * weights).sum(), weights.sum()])
    loss, count = accelerator.reduce(own.to(device), "sum").tolist()
    return loss / count


class WholeBatches(Dataset[MicroBatch]):
    """Item ``i`` is a forward pass on studies with nothing left out.

    Args:
        data: the studies.
        places: of the studies of each forward pass.
        images: where those of the studies come from.
    """

    def __init__(self, data: ReportSamples, places: list[list[int]], images: Images) -> None:
        self.data = data
        self.places = places
        self.images = images

    def __getitem__(self, number: int) -> MicroBatch:
        samples = [self.data.sample(index) for index in self.places[number]]
        return collate(samples, self.data, self.images)


def share_out(items: int, accelerator: Accelerator) -> Sequence[tuple[int, bool]]:
    """(item, whether it counts) for this process.

    Every process gets equally many, because sharded models need all processes in each forward
    pass; what would be missing is filled up with items that do not count.
    """
    rounds = -(-items // accelerator.num_processes)
    own = [i * accelerator.num_processes + accelerator.process_index for i in range(rounds)]
    return [(min(item, items - 1), item < items) for item in own]
