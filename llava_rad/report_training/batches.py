"""From batches of the order to the tensors of one forward pass."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.images import load_radiograph
from llava_rad.model import IGNORE
from llava_rad.report_training.augmentation import augment
from llava_rad.report_training.samples import ReportSample, ReportSamples
from llava_rad.runs.order import BatchOrder
from llava_rad.runs.stopping import calm_worker


@dataclass
class MicroBatch:
    """What one forward pass of one process learns from.

    Attributes:
        input_ids: [studies, length].
        attention_mask: [studies, length].
        labels: [studies, length].
        study_ids: which studies, in the order of the rows.
        paths: image files in the order of the image tokens.
        pixel_values: [images, 3, height, width] where images are read; or
        patches: [images, tokens, dim] where their patch tokens are cached.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    study_ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    pixel_values: Tensor | None = None
    patches: Tensor | None = None

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """The model's arguments on a device."""
        names = ("input_ids", "attention_mask", "labels", "pixel_values", "patches")
        values = {name: getattr(self, name) for name in names}
        return {k: v.to(device, non_blocking=True) for k, v in values.items() if v is not None}

    @property
    def target_tokens(self) -> int:
        """Tokens that are learnt."""
        return int((self.labels != IGNORE).sum())


def collate(
    samples: Sequence[ReportSample], data: ReportSamples, preprocessing: Preprocessing | None
) -> MicroBatch:
    """Stack samples.

    Args:
        samples: of one forward pass.
        data: that they come from.
        preprocessing: reads and prepares the images; None leaves them to the feature cache.

    Raises:
        DataError: no sample has a token to learn, or an image cannot be read; the message names
            the studies.
    """
    padded = data.processor.pad([s.tokens for s in samples], side="right")
    batch = MicroBatch(
        padded["input_ids"],
        padded["attention_mask"],
        padded["labels"],
        study_ids=[sample.study_id for sample in samples],
        paths=[path for sample in samples for path in sample.paths],
    )
    if batch.target_tokens == 0:
        raise DataError(
            "the batch has no token to learn",
            where=", ".join(batch.study_ids),
            remedy="Leave studies without findings out, or raise data.max_length",
            kind="no_target",
        )
    if preprocessing is not None:
        batch.pixel_values = torch.stack(
            [_read(path, sample, preprocessing) for sample in samples for path in sample.paths]
        )
    return batch


def _read(path: str, sample: ReportSample, preprocessing: Preprocessing) -> Tensor:
    try:
        radiograph = load_radiograph(path, rendering=preprocessing.rendering)
        if sample.rng is not None:
            radiograph = replace(radiograph, pixels=augment(radiograph.pixels, sample.rng))
        return preprocessing(radiograph)
    except LlavaRadError as error:
        raise DataError(
            f"an image of study {sample.study_id} cannot be read: {error.what}",
            where=path,
            remedy="Restore the file, or take the study out of the manifest",
            kind="unreadable_image",
        ) from error


def count_tokens(batches: Sequence[MicroBatch]) -> Tensor:
    """Target tokens, tokens without padding, and places with padding: int64 [3]."""
    return torch.tensor(
        [
            sum(b.target_tokens for b in batches),
            sum(int(b.attention_mask.sum()) for b in batches),
            sum(b.input_ids.numel() for b in batches),
        ]
    )


class TrainingBatches(Dataset[MicroBatch]):
    """Item ``i`` is this process's part of forward pass ``i`` of a stage.

    Args:
        data: the training studies.
        order: of the stage.
        micro_batch: studies of a forward pass of one process.
        accumulate: forward passes of an optimiser step.
        rank: of this process.
        processes: that train together.
        preprocessing: reads images; None where their patch tokens are cached.
    """

    def __init__(
        self,
        data: ReportSamples,
        order: BatchOrder,
        micro_batch: int,
        accumulate: int,
        rank: int,
        processes: int,
        preprocessing: Preprocessing | None,
    ) -> None:
        self.data = data
        self.order = order
        self.micro_batch = micro_batch
        self.accumulate = accumulate
        self.rank = rank
        self.processes = processes
        self.preprocessing = preprocessing

    def __getitem__(self, forward_pass: int) -> MicroBatch:
        step, place = divmod(forward_pass, self.accumulate)
        # Neighbours in length go to different processes in the same pass, so none waits long.
        first = (place * self.processes + self.rank) * self.micro_batch
        drawn = self.order.batch(step)[first : first + self.micro_batch]
        samples = [self.data.sample(index, draw) for index, draw in drawn]
        return collate(samples, self.data, self.preprocessing)


def load_batches(
    data: TrainingBatches, first: int, last: int, workers: int
) -> Generator[MicroBatch]:
    """The items ``first`` to ``last - 1``, read ahead by worker processes.

    Args:
        data: of this process.
        first: forward pass to start with.
        last: one past the end.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        DataError: as :func:`collate`, when the batch's turn comes.
    """
    loader = DataLoader(
        _Caught(data),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        worker_init_fn=calm_worker if workers else None,
    )
    for item in loader:
        if isinstance(item, LlavaRadError):
            raise item
        yield item


class _Caught(Dataset[MicroBatch | LlavaRadError]):
    """Gives errors as items: a worker process would bury their message in its traceback."""

    def __init__(self, data: TrainingBatches) -> None:
        self.data = data

    def __getitem__(self, number: int) -> MicroBatch | LlavaRadError:
        try:
            return self.data[number]
        except LlavaRadError as error:
            return error
