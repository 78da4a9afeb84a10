"""Multi-crop augmentation of radiographs.

Two steps, so that the processes that read images do little and send little: geometry (cut,
resize, flip) is done on the stored grayscale image and gives small 8-bit crops; appearance
(brightness, contrast, blur, normalisation) is computed for a whole batch of crops on the
training device, from parameters that were drawn together with the geometry.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from llava_rad.dinov2.config import CropsConfig


@dataclass
class Crops:
    """Crops of one size with the appearance each of them will get.

    Attributes:
        pixels: ``[crops, 1, size, size]``; uint8, or float32 in 0..1 from images of more bits.
        appearance: ``[crops, 3]``: brightness factor, contrast factor, blur sigma in pixels
            (0 = none).
        blurred: numbers of the crops that will be blurred, int64; found where the crops are cut, so
            that no device has to be asked.
    """

    pixels: Tensor
    appearance: Tensor
    blurred: Tensor | None = None

    def __post_init__(self) -> None:
        if self.blurred is None:
            self.blurred = self.appearance[:, 2].nonzero().squeeze(1)

    def to(self, device: torch.device) -> "Crops":
        """Return a copy on ``device``."""
        return Crops(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def pin_memory(self) -> "Crops":
        """Return a copy in memory that a GPU can fetch from by itself."""
        return Crops(*(tensor.pin_memory() for tensor in vars(self).values()))


class MultiCrop:
    """Cuts two global and several local crops from an image."""

    def __init__(self, config: CropsConfig, global_size: int, local_size: int) -> None:
        self.config = config
        self.global_size = global_size
        self.local_size = local_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[Crops, Crops]:
        """Return global and local crops of a grayscale image ``[H, W]``, uint8 or uint16."""
        config = self.config
        pixels = _as_tensor(image)
        blur_first, blur_second, blur_local = config.blur
        global_crops = self._cut(
            pixels, self.global_size, config.global_scale, [blur_first, blur_second], rng
        )
        local_crops = self._cut(
            pixels, self.local_size, config.local_scale, [blur_local] * config.local_count, rng
        )
        return global_crops, local_crops

    def _cut(
        self,
        pixels: Tensor,
        size: int,
        scale: tuple[float, float],
        blur_probabilities: list[float],
        rng: np.random.Generator,
    ) -> Crops:
        config = self.config
        crops = pixels.new_empty(len(blur_probabilities), 1, size, size)
        appearance = torch.ones(len(blur_probabilities), 3)
        for index, blur in enumerate(blur_probabilities):
            top, left, height, width = crop_box(
                (pixels.shape[1], pixels.shape[2]), scale, config.aspect_ratio, rng
            )
            part = pixels[:, top : top + height, left : left + width]
            crop = resize(part, [size, size], InterpolationMode.BICUBIC, antialias=True)
            crops[index] = crop.flip(-1) if rng.random() < config.flip else crop
            if rng.random() < config.jitter:
                appearance[index, 0] = 1 + config.brightness * rng.uniform(-1, 1)
                appearance[index, 1] = 1 + config.contrast * rng.uniform(-1, 1)
            appearance[index, 2] = rng.uniform(*config.blur_sigma) if rng.random() < blur else 0
        return Crops(crops, appearance)


def _as_tensor(image: np.ndarray) -> Tensor:
    """``[H, W]`` to ``[1, H, W]``; more than 8 bits become float32 in 0..1."""
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / 65535
    return torch.from_numpy(np.array(image))[None]


def crop_box(
    image_size: tuple[int, int],
    scale: tuple[float, float],
    aspect_ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw a box of random area and shape inside an image.

    Args:
        image_size: height and width in pixels.
        scale: smallest and largest share of the image's area.
        aspect_ratio: smallest and largest width over height, drawn evenly on a log scale.
        rng: source of randomness.

    Returns:
        Top, left, height, width. Where no drawn box fits (very long images), the largest
        centred box of an allowed shape.
    """
    height, width = image_size
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect_ratio[0]), math.log(aspect_ratio[1])))
        box_height = round(math.sqrt(area / ratio))
        box_width = round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    ratio = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
    box_height = min(height, max(1, round(width / ratio)))
    box_width = min(width, max(1, round(height * ratio)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def apply_appearance(crops: Crops, mean: float, std: float) -> Tensor:
    """Return normalised crops ``[crops, 1, size, size]``, float32, on the crops' device.

    Args:
        crops: from :class:`MultiCrop`.
        mean: of the training set, pixel values in 0..1.
        std: likewise.
    """
    pixels = crops.pixels
    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    brightness, contrast, sigma = crops.appearance[:, :, None, None, None].unbind(dim=1)
    blurred: Any = crops.blurred
    x = (x * brightness).clamp(0, 1)
    average = x.mean(dim=(1, 2, 3), keepdim=True)
    x = ((x - average) * contrast + average).clamp(0, 1)
    if len(blurred):
        x = x.index_copy(0, blurred, gaussian_blur(x[blurred], sigma[blurred].flatten()))
    return (x - mean) / std


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int = 4) -> Tensor:
    """Blur each image with its own width.

    Args:
        images: ``[batch, 1, H, W]``, sides above ``radius``.
        sigma: ``[batch]``, in pixels.
        radius: of the kernel, in pixels.
    """
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    batch = len(images)
    x = F.pad(images.transpose(0, 1), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernels[:, None, None, :], groups=batch)
    x = F.conv2d(x, kernels[:, None, :, None], groups=batch)
    return x.transpose(0, 1)
