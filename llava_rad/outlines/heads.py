"""Light decoders from a grid of patch tokens to logits of structures.

All three give logits at four times the grid's resolution.

``linear``: one linear layer a token, interpolated; what the tokens themselves know.
``pyramid``: the simple feature pyramid of ViTDet (arXiv:2203.16527): the last tokens at 4, 2, 1 and
1/2 times their resolution, each through a 1 x 1 and a 3 x 3 convolution, then summed.
``upernet``: UPerNet (arXiv:1807.10221, transformers' implementation) on the same four maps.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_rad import saved_heads
from llava_rad.errors import ConfigError

HEADS = ("linear", "pyramid", "upernet")
SCALE = 4  # logits a token, along each side
#: The usual name of a saved head's file.
FILE = "segmentation.safetensors"
_MARK = "segmentation_head"


class SegmentationHead(nn.Module):
    """A decoder with all that is needed to use it again.

    Args:
        kind: one of :data:`HEADS`.
        structures: names of what it outlines.
        dim: of the tokens.
        width: channels of ``pyramid`` and ``upernet``.
        facts: what it belongs to and how it was made, all of it JSON.

    Raises:
        ConfigError: there is no such head.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        kind: str,
        structures: tuple[str, ...],
        dim: int,
        width: int = 256,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if kind not in HEADS:
            raise ConfigError(f"head is {kind!r}", remedy=f"Use one of {', '.join(HEADS)}")
        self.kind, self.structures, self.dim, self.width = kind, structures, dim, width
        self.facts = facts or {}
        # Tokens of different encoders differ in scale by orders of magnitude.
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        if kind == "linear":
            self.decoder: nn.Module = nn.Conv2d(dim, len(structures), 1)
        elif kind == "pyramid":
            self.decoder = _PyramidDecoder(dim, width, len(structures))
        else:
            self.decoder = _UperNetDecoder(dim, width, len(structures))

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits of each structure.

        Args:
            patches: [batch, tokens, dim].
            grid: rows and columns of the tokens.

        Returns:
            [batch, structures, 4 * rows, 4 * columns].
        """
        tokens = (patches.float() - self.mean) / self.scale
        maps = tokens.transpose(1, 2).unflatten(2, grid)  # [batch, dim, rows, columns]
        logits = self.decoder(maps)
        size = (SCALE * grid[0], SCALE * grid[1])
        return F.interpolate(logits, size, mode="bilinear") if self.kind == "linear" else logits

    def save(self, file: Path) -> None:
        """Write a safetensors file that :func:`load_head` reads back."""
        about = {
            "kind": self.kind,
            "structures": list(self.structures),
            "dim": self.dim,
            "width": self.width,
            "facts": self.facts,
        }
        saved_heads.save_head(file, _MARK, self.state_dict(), about)


def load_head(file: Path) -> SegmentationHead:
    """Read what :meth:`SegmentationHead.save` wrote, in evaluation mode.

    Raises:
        WeightsError: the file holds no such head.
    """

    def make(tensors: dict[str, Tensor], about: dict[str, Any]) -> SegmentationHead:
        head = SegmentationHead(
            about["kind"], tuple(about["structures"]), about["dim"], about["width"], about["facts"]
        )
        head.load_state_dict(tensors)
        return head.eval()

    return saved_heads.load_head(
        file,
        _MARK,
        make,
        what="segmentation head",
        remedy="Give a file that eval/segmentation.py or training/train_observations.py saved",
        kind="no_head",
    )


class _Pyramid(nn.Module):
    """Maps at 4, 2, 1 and 1/2 times the grid's resolution, ``width`` channels each."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *resize,
                nn.Conv2d(channels, width, 1, bias=False),
                nn.GroupNorm(1, width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(1, width),
            )
            for resize, channels in (
                (
                    (
                        nn.ConvTranspose2d(dim, width, 2, 2),
                        nn.GroupNorm(1, width),
                        nn.GELU(),
                        nn.ConvTranspose2d(width, width, 2, 2),
                    ),
                    width,
                ),
                ((nn.ConvTranspose2d(dim, width, 2, 2),), width),
                ((), dim),
                ((nn.MaxPool2d(2, ceil_mode=True),), dim),
            )
        )

    def forward(self, maps: Tensor) -> list[Tensor]:
        return [level(maps) for level in self.levels]


class _PyramidDecoder(nn.Module):
    def __init__(self, dim: int, width: int, structures: int) -> None:
        super().__init__()
        self.pyramid = _Pyramid(dim, width)
        self.classifier = nn.Sequential(nn.GELU(), nn.Conv2d(width, structures, 1))

    def forward(self, maps: Tensor) -> Tensor:
        finest, *coarser = self.pyramid(maps)
        total = finest
        for level in coarser:
            total = total + F.interpolate(level, finest.shape[-2:], mode="bilinear")
        return self.classifier(total)


class _UperNetDecoder(nn.Module):
    def __init__(self, dim: int, width: int, structures: int) -> None:
        super().__init__()
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetHead

        self.pyramid = _Pyramid(dim, width)
        config = UperNetConfig(hidden_size=width)
        config.num_labels = structures
        self.head = cast(nn.Module, UperNetHead(config, [width] * 4))

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(self.pyramid(maps))
