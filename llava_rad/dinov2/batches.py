"""Batches of crops and masks, each a pure function of the seed and the step.

Nothing depends on what was drawn before: a run that resumes, a run on more processes and a run
that accumulates see the same crops of the same images with the same masks.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from llava_rad.dinov2.augmentation import Crops, MultiCrop
from llava_rad.dinov2.config import LossConfig
from llava_rad.dinov2.image_sources import ImageSource
from llava_rad.dinov2.masking import block_mask, mask_sizes
from llava_rad.errors import DataError, ImageError, TrainingError
from llava_rad.kernels.vit_layer import PatchMasks

_LOG = logging.getLogger(__name__)

# Independent streams of randomness under one seed.
_ORDER, _CROPS, _MASK_SIZES, _MASKS = range(4)


@dataclass
class Batch:
    """What one forward pass works on.

    Attributes:
        global_crops: ``2 x batch`` crops; first the first crop of every image, then the second.
        local_crops: ``local_count x batch`` crops in the same order.
        masks: of the global crops, ``2 x batch``.
    """

    global_crops: Crops
    local_crops: Crops
    masks: PatchMasks

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on ``device``."""
        return Batch(
            self.global_crops.to(device),
            self.local_crops.to(device),
            self.masks.to(device),
        )

    def pin_memory(self) -> "Batch":
        """A copy that a GPU can fetch while the host goes on; torch's loader asks for it."""
        return Batch(
            self.global_crops.pin_memory(),
            self.local_crops.pin_memory(),
            PatchMasks(*(tensor.pin_memory() for tensor in self.masks)),
        )


class DrawOrder:
    """Which image each draw of a run takes.

    Every pass is a new permutation of all images, each taken as often as its source's weight
    says (a fraction takes a random part). Passes follow one another without a gap, so no batch is
    ever short.

    Args:
        sizes: images of each source.
        weights: of each source.
        seed: of the run.
    """

    def __init__(self, sizes: list[int], weights: list[float], seed: int) -> None:
        self.seed = seed
        self.weights = weights
        self.starts = np.cumsum([0, *sizes])
        self.counts = [round(size * weight) for size, weight in zip(sizes, weights, strict=True)]
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Return the draws of one pass."""
        return sum(self.counts)

    def __getitem__(self, draw: int) -> int:
        """Return the image of draw ``draw``, numbered over all sources in their order."""
        number, place = divmod(draw, len(self))
        if self._pass[0] != number:
            self._pass = (number, self._permutation(number))
        return int(self._pass[1][place])

    def _permutation(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, _ORDER, number])
        images = []
        for start, end, count in zip(self.starts[:-1], self.starts[1:], self.counts, strict=True):
            whole, rest = divmod(count, int(end - start))
            own = np.arange(start, end)
            images += [np.tile(own, whole), rng.permutation(own)[:rest]]
        return rng.permutation(np.concatenate(images))


class CropBatches(Dataset[Batch]):
    """Item ``i`` is this process's part of forward pass ``i`` of the run.

    Args:
        sources: the images.
        order: which image each draw takes.
        multi_crop: cuts the crops.
        loss: mask probability and ratios.
        patch_size: of the backbone, in pixels.
        batch_size: images per process and forward pass.
        rank: of this process.
        processes: that train together.
        seed: of the run.
    """

    def __init__(
        self,
        sources: list[ImageSource],
        order: DrawOrder,
        multi_crop: MultiCrop,
        loss: LossConfig,
        patch_size: int,
        batch_size: int,
        rank: int,
        processes: int,
        seed: int,
    ) -> None:
        if batch_size * processes > len(order):
            raise TrainingError(
                f"a forward pass of {batch_size * processes} images is larger than the training "
                f"set of {len(order)}",
                remedy="Lower optimiser.batch_size or the number of processes, or add images",
            )
        self.sources = sources
        self.order = order
        self.multi_crop = multi_crop
        self.loss = loss
        side = multi_crop.global_size // patch_size
        self.grid = (side, side)
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes
        self.seed = seed

    def __getitem__(self, forward_pass: int) -> Batch:
        size, everyone = self.batch_size, self.batch_size * self.processes
        first = forward_pass * everyone + self.rank * size
        global_crops, local_crops = [], []
        for draw in range(first, first + size):
            rng = np.random.default_rng([self.seed, _CROPS, draw])
            image = self._read(self.order[draw])
            of_image = self.multi_crop(image, rng)
            global_crops.append(of_image[0])
            local_crops.append(of_image[1])
        return Batch(
            _by_crop(global_crops), _by_crop(local_crops), self._masks(forward_pass, everyone)
        )

    def _masks(self, forward_pass: int, everyone: int) -> PatchMasks:
        rng = np.random.default_rng([self.seed, _MASK_SIZES, forward_pass])
        patches = self.grid[0] * self.grid[1]
        probability = self.loss.mask_probability if self.loss.ibot_weight > 0 else 0.0
        sizes = mask_sizes(2 * everyone, patches, self.loss.mask_ratio, probability, rng)
        masks = []
        for crop in range(2):
            for image in range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size):
                row = crop * everyone + image
                row_rng = np.random.default_rng([self.seed, _MASKS, forward_pass, row])
                masks.append(block_mask(self.grid, int(sizes[row]), row_rng).reshape(-1))
        return PatchMasks.of(torch.from_numpy(np.stack(masks)))

    def _read(self, image: int) -> np.ndarray:
        """Read an image, or the next readable one in its place."""
        total = int(self.order.starts[-1])
        for attempt in range(10):
            number = (image + attempt) % total
            source = int(np.searchsorted(self.order.starts, number, side="right")) - 1
            index = number - int(self.order.starts[source])
            try:
                return self.sources[source].read(index)
            except ImageError as error:
                _LOG.warning("the next image stands in: %s", error)
        raise DataError(
            "ten images in a row cannot be read",
            where=self.sources[source].name(index),
            remedy="See the warnings above for each image's reason",
        )


def _by_crop(crops_of_images: list[Crops]) -> Crops:
    """Reorder from image by image to crop by crop."""
    pixels = torch.stack([crops.pixels for crops in crops_of_images], dim=1)
    appearance = torch.stack([crops.appearance for crops in crops_of_images], dim=1)
    return Crops(pixels.flatten(0, 1), appearance.flatten(0, 1))


class ForwardPasses(Sampler[int]):
    """The numbers ``first`` to ``last - 1``, for a loader that starts in the middle of a run."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))
