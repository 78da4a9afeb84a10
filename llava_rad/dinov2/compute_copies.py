"""Copies of parameters in the type that a network computes in, made together.

A copy of each parameter by itself costs a launch and a node of autograd's graph, forward and
backward, which a small network on a GPU waits for. Here a layer's parameters are copied at once.
Not those of the whole network: between processes, gradients of one layer are exchanged while those
of the next are computed.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of the parts of a parameter's name: enough to tell layers apart ("encoder.layer.3").
_PARTS = 3


def copies_of(parameters: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of parameters by name; gradients come back in the parameters' own type.

    Args:
        parameters: by name, of one floating-point type.
        dtype: of the copies.
    """
    layers: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in parameters:
        layers[tuple(name.split(".")[:_PARTS])].append(name)
    copies: dict[str, Tensor] = {}
    for names in layers.values():
        made = _Copies.apply(dtype, *(parameters[name] for name in names))
        copies.update(zip(names, made, strict=True))
    return copies


class _Copies(torch.autograd.Function):
    """Tensors in another type, and their gradients back in their own."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # what is not used has no gradient
        ctx.dtype = tensors[0].dtype
        return tuple(_converted(tensors, dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = iter(_converted([g for g in gradients if g is not None], ctx.dtype))
        return None, *(None if gradient is None else next(there) for gradient in gradients)


def _converted(tensors: list[Tensor] | tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
