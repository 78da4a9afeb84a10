"""From batches of the order to the tensors of one forward pass."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.images import load_radiograph
from llava_rad.model import IGNORE
from llava_rad.model.processor import columns_with_targets, image_places
from llava_rad.report_training.augmentation import augment
from llava_rad.report_training.samples import ReportSample, ReportSamples
from llava_rad.runs.order import BatchOrder
from llava_rad.runs.stopping import calm_worker


@dataclass
class MicroBatch:
    """What one forward pass of one process learns from.

    Its numbers are counted where it is made, so that no device is asked for them.

    Attributes:
        input_ids: [studies, length], padded on the right.
        attention_mask: [studies, length].
        labels: [studies, length].
        target_columns: [columns], where some study has to predict its next token.
        image_places: [image tokens], where the flat ``input_ids`` are image tokens.
        target_tokens: tokens that are learnt.
        tokens: without padding.
        study_ids: which studies, in the order of the rows.
        paths: image files in the order of the image tokens.
        pixel_values: [images, 3, height, width] where images are read; or
        patches: [images, tokens, dim] where their patch tokens are cached.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    target_columns: Tensor
    image_places: Tensor
    target_tokens: int
    tokens: int
    study_ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    pixel_values: Tensor | None = None
    patches: Tensor | None = None

    def model_inputs(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments on a device."""
        found = {k: v.to(device, non_blocking=True) for k, v in self._tensors().items()}
        return {**found, "pads_right": True}

    def pin_memory(self) -> "MicroBatch":
        """A copy in memory that a GPU fetches from by itself; torch's loader asks for it."""
        pinned: dict[str, Any] = {k: v.pin_memory() for k, v in self._tensors().items()}
        return replace(self, **pinned)

    def _tensors(self) -> dict[str, Tensor]:
        return {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}


def collate(
    samples: Sequence[ReportSample],
    data: ReportSamples,
    preprocessing: Preprocessing | None,
    multiple: int = 1,
) -> MicroBatch:
    """Stack samples.

    Args:
        samples: of one forward pass.
        data: that they come from.
        preprocessing: reads and prepares the images; None leaves them to the feature cache.
        multiple: that the length is padded to.

    Raises:
        DataError: no sample has a token to learn, or an image cannot be read; the message names
            the studies.
    """
    padded = data.processor.pad([s.tokens for s in samples], side="right", multiple=multiple)
    batch = MicroBatch(
        **padded,
        target_columns=columns_with_targets(padded["labels"]),
        image_places=image_places(padded["input_ids"]),
        target_tokens=int((padded["labels"] != IGNORE).sum()),
        tokens=int(padded["attention_mask"].sum()),
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
    slots, images = len(batch.image_places), len(batch.paths)
    if slots != images * data.processor.tokens_per_image:
        raise DataError(
            f"the batch has {slots} image tokens for {images} images",
            where=", ".join(batch.study_ids),
            kind="tokens_per_image",
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


def count_tokens(batches: Sequence[MicroBatch]) -> list[int]:
    """Target tokens, tokens without padding, and places with padding."""
    return [
        sum(b.target_tokens for b in batches),
        sum(b.tokens for b in batches),
        sum(b.input_ids.numel() for b in batches),
    ]


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
        multiple: that the lengths are padded to.
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
        multiple: int = 1,
    ) -> None:
        self.data = data
        self.order = order
        self.micro_batch = micro_batch
        self.accumulate = accumulate
        self.rank = rank
        self.processes = processes
        self.preprocessing = preprocessing
        self.multiple = multiple

    def __getitem__(self, forward_pass: int) -> MicroBatch:
        step, place = divmod(forward_pass, self.accumulate)
        # Neighbours in length go to different processes in the same pass, so none waits long.
        first = (place * self.processes + self.rank) * self.micro_batch
        drawn = self.order.batch(step)[first : first + self.micro_batch]
        samples = [self.data.sample(index, draw) for index, draw in drawn]
        return collate(samples, self.data, self.preprocessing, self.multiple)


def load_batches(
    data: TrainingBatches, first: int, last: int, workers: int, *, pin: bool = False
) -> Generator[MicroBatch]:
    """The items ``first`` to ``last - 1``, read ahead by worker processes.

    Args:
        data: of this process.
        first: forward pass to start with.
        last: one past the end.
        workers: processes that read ahead; 0 reads in this one.
        pin: put them where a GPU can fetch them without the host waiting.

    Raises:
        DataError: as :func:`collate`, when the batch's turn comes.
    """
    loader = DataLoader(
        _Caught(data),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        worker_init_fn=calm_worker if workers else None,
        pin_memory=pin,
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
