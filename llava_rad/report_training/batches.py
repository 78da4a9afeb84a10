"""From batches of the order to the tensors of one forward pass."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.features import FeatureStore
from llava_rad.images import load_radiograph
from llava_rad.model import IGNORE
from llava_rad.model.processor import columns_with_targets, image_places
from llava_rad.report_training.augmentation import augment
from llava_rad.report_training.samples import ReportSample, ReportSamples
from llava_rad.runs.loading import read_ahead
from llava_rad.runs.order import BatchOrder

#: Where a batch's images come from: their files, read and prepared, or the store of their tokens.
Images = Preprocessing | FeatureStore


def batch_order(data: ReportSamples, stage: str, batch_size: int, steps: int) -> BatchOrder:
    """The batches of a stage: of studies of similar length, which need little padding.

    Reports of one length are of one kind, and a batch of them would have rewards of one size:
    where reports are rewarded, the prompts alone count.
    """
    length = data.prompt_length if stage == "reinforce" else data.length
    return BatchOrder(data.weights, length, batch_size, steps, data.seed)


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
        patches: [images, tokens, dim] where their patch tokens are stored.
        lost: places of images whose stored tokens were not found.
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
    lost: list[int] = field(default_factory=list)

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
    images: Images | None,
    multiple: int = 1,
) -> MicroBatch:
    """Stack samples.

    Args:
        samples: of one forward pass.
        data: that they come from.
        images: where they come from; None leaves them out.
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
        lost=[],
    )
    if batch.target_tokens == 0:
        raise DataError(
            "the batch has no token to learn",
            where=", ".join(batch.study_ids),
            remedy="Leave studies without findings out, or raise data.max_length",
            kind="no_target",
        )
    slots, count = len(batch.image_places), len(batch.paths)
    if slots != count * data.processor.tokens_per_image:
        raise DataError(
            f"the batch has {slots} image tokens for {count} images",
            where=", ".join(batch.study_ids),
            kind="tokens_per_image",
        )
    if isinstance(images, FeatureStore):
        batch.patches, batch.lost = images.find(batch.paths)
    elif images is not None:
        batch.pixel_values = torch.stack(
            [_read(path, sample, images) for sample in samples for path in sample.paths]
        )
    return batch


def _read(path: str, sample: ReportSample, preprocessing: Preprocessing) -> Tensor:
    try:
        radiograph = load_radiograph(path, rendering=preprocessing.rendering)
        if sample.rng is not None:
            radiograph = replace(radiograph, pixels=augment(radiograph.pixels, sample.rng))
        return preprocessing(radiograph)
    except LlavaRadError as error:
        raise unreadable(error, sample.study_id) from error


def unreadable(error: LlavaRadError, study: str) -> DataError:
    """What is said of an image of a study that cannot be read."""
    return DataError(
        f"an image of study {study} cannot be read: {error.what}",
        where=error.where,
        remedy="Restore the file, or take the study out of the manifest",
        kind="unreadable_image",
    )


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
        images: where they come from.
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
        images: Images | None,
        multiple: int = 1,
    ) -> None:
        self.data = data
        self.order = order
        self.micro_batch = micro_batch
        self.accumulate = accumulate
        self.rank = rank
        self.processes = processes
        self.images = images
        self.multiple = multiple

    def drawn(self, forward_pass: int) -> list[tuple[int, int]]:
        """Which studies a forward pass learns from, each with the number of its draw."""
        step, place = divmod(forward_pass, self.accumulate)
        # Neighbours in length go to different processes in the same pass, so none waits long.
        first = (place * self.processes + self.rank) * self.micro_batch
        return self.order.batch(step)[first : first + self.micro_batch]

    def __getitem__(self, forward_pass: int) -> MicroBatch:
        samples = [self.data.sample(index, draw) for index, draw in self.drawn(forward_pass)]
        return collate(samples, self.data, self.images, self.multiple)


def load_batches(
    data: Dataset[MicroBatch],
    numbers: Sequence[int],
    images: Images | None,
    workers: int,
    *,
    pin: bool = False,
) -> Generator[MicroBatch]:
    """The items of these numbers, read ahead by worker processes.

    Tokens that a worker did not find are made here, where the encoder is.

    Args:
        data: of this process.
        numbers: of the items.
        images: where those of ``data`` come from.
        workers: processes that read ahead; 0 reads in this one.
        pin: put them where a GPU can fetch them without the host waiting.

    Raises:
        DataError: as :func:`collate`, when the batch's turn comes.
    """
    for batch in read_ahead(data, numbers, workers, pin=pin):
        if batch.lost and batch.patches is not None and isinstance(images, FeatureStore):
            try:
                images.mend(batch.paths, batch.patches, batch.lost)
            except LlavaRadError as error:
                raise unreadable(error, ", ".join(batch.study_ids)) from error
        yield batch
