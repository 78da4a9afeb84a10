"""What an encoder has to beat: its architecture with random weights, and the pixels themselves."""

import copy
import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_rad.encoders import EncoderOutput, ImageEncoder, Preprocessing, load_encoder
from llava_rad.errors import ConfigError
from llava_rad.tensor_files import write_tensors

_SEED = re.compile(r":\d+$")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def load_judged(
    name: str, *, image_size: int | None = None, device: torch.device | str | None = None
) -> ImageEncoder:
    """Load what is to be judged: an encoder, or a baseline to judge it by.

    Args:
        name: what :func:`llava_rad.encoders.load_encoder` takes; ``random:NAME`` for that
            encoder's architecture with random weights (``random:NAME:7`` for seed 7); ``pixels``
            for the gray values.
        image_size: side of the input in pixels instead of the encoder's own.
        device: where to put it.

    Raises:
        WeightsError: there is no such encoder.
    """
    if name == "pixels":
        encoder: ImageEncoder = PixelEncoder(image_size or 224)
    elif name.startswith("random:"):
        inner = name.removeprefix("random:")
        inner, _, seed = inner.rpartition(":") if _SEED.search(inner) else (inner, "", "0")
        encoder = randomised(load_encoder(inner, image_size=image_size), int(seed))
        encoder.name = name
    else:
        encoder = load_encoder(name, image_size=image_size)
    return encoder.to(device) if device is not None else encoder


class PixelEncoder(ImageEncoder):
    """No network: gray values as features.

    CLS is the image shrunk to ``side`` x ``side``; a patch token is its patch, shrunk likewise to
    at most 8 x 8. Both have ``side**2`` numbers, with zeros after those of a patch.

    Args:
        image_size: of the square input in pixels.
        patch_size: in pixels.
        side: of the shrunken image.
        preprocessing: instead of a plain resize of the shorter side and centre crop.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        *,
        side: int = 16,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        chosen = preprocessing or Preprocessing(image_size, mean=(0.5,) * 3, std=(0.25,) * 3)
        super().__init__("pixels", chosen)
        self.side = side
        if min(8, patch_size) > side:
            raise ConfigError(f"side is {side}", where="pixels", remedy="Use at least 8")
        # Its one weight, so that it has a device and a dtype as every encoder.
        self.scale = nn.Parameter(torch.ones(()))
        self._freeze(dim=side * side, patch_size=patch_size, depth=0)

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        gray = pixel_values[:, :1] * self.scale
        rows, columns = self.grid(gray.shape[-2], gray.shape[-1])
        cls = F.adaptive_avg_pool2d(gray, self.side).flatten(1)
        cells = min(8, self.patch_size)
        shrunken = F.adaptive_avg_pool2d(gray, (rows * cells, columns * cells))
        patches = F.unfold(shrunken, cells, stride=cells).transpose(1, 2)
        return EncoderOutput(cls, F.pad(patches, (0, self.dim - cells * cells)))

    def _settings(self) -> dict[str, object]:
        return {"pixels": self.side, "patch_size": self.patch_size}

    def _save_weights(self, folder: Path) -> None:
        write_tensors(self.state_dict(), folder / "model.safetensors")


def randomised(encoder: ImageEncoder, seed: int = 0) -> ImageEncoder:
    """The same architecture and preprocessing with random weights.

    Matrices and filters are normal with variance 1 / fan-in, which keeps the scale of what passes
    through them; tokens and position tables are normal with standard deviation 0.02; norms and
    layer scales are 1, biases 0.

    Args:
        encoder: stays as it is.
        seed: of the weights.
    """
    copied = copy.deepcopy(encoder)
    generator = torch.Generator().manual_seed(seed)
    layers = {
        id(parameter)
        for module in copied.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in copied.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in layers and parameter.ndim > 1:
            value /= math.sqrt(parameter[0].numel())
        elif parameter.ndim > 1:
            # Fused projections are bare matrices; tokens and tables have a first length of 1.
            square = parameter.ndim == 2 and min(parameter.shape) > 1 and "pos" not in name
            value *= 1 / math.sqrt(parameter.shape[-1]) if square else 0.02
        else:
            value = torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value)
        parameter.data.copy_(value)
    for module in copied.modules():
        if isinstance(module, _BATCH_NORMS):
            module.reset_running_stats()
    copied.name = f"{encoder.name}, random weights"
    return copied
