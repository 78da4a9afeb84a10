"""Liger Kernel's LayerNorm in place of torch's."""

from typing import Any

from liger_kernel.ops import LigerLayerNormFunction
from torch import Tensor, nn


class LigerNorm(nn.LayerNorm):
    """The norm of a trained one, with its parameters.

    Args:
        norm: with weight and bias.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__(norm.normalized_shape, norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Norm of ``x`` [..., width]."""
        out: Tensor = LigerLayerNormFunction.apply(x, self.weight, self.bias, self.eps)
        return out
