"""Gradient checkpointing of a layer: its activations are computed twice instead of kept."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


class RecomputedLayer(nn.Module):
    """Stands in for a layer, with its children and so with its names of parameters.

    Only the tokens that enter it are kept; what stochastic depth drew is drawn again. The backward
    pass computes with the parameters that the forward pass was given, which may be copies in
    another type and are gone from the layer by then.

    Args:
        layer: maps tokens to tokens, as :class:`~llava_rad.kernels.vit_layer.VitLayer`.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in layer.named_children():
            self.add_module(name, child)
        # In a tuple it is no child, whose parameters would be listed twice.
        self._layer = (layer,)

    def train(self, mode: bool = True) -> "RecomputedLayer":
        """Switch the layer too."""
        self._layer[0].train(mode)
        super().train(mode)
        return self

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """As of the layer."""
        call: Any = (self._layer[0], dict(self.named_parameters()), inputs, options)
        tokens: Tensor
        if self.training and torch.is_grad_enabled():
            tokens = checkpoint(functional_call, *call, use_reentrant=False)
        else:
            tokens = functional_call(*call)
        return tokens
