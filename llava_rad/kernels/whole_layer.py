"""A layer of transformers that is left as it is, with what pretraining asks of the last one."""

from typing import Any

import torch
from torch import Tensor, nn

from llava_rad.errors import ConfigError
from llava_rad.kernels.vit_layer import PatchMasks


def left_whole(layer: nn.Module, drop_path: float, is_last: bool) -> nn.Module:
    """The layer itself, which from now on obeys ``wanted`` as a ``VitLayer`` does.

    Args:
        layer: maps tokens ``[images, tokens, width]`` to tokens, or to a tuple that they are first
            in.
        drop_path: 0, since its branches are not known.
        is_last: the layer obeys ``wanted``.

    Raises:
        ConfigError: another ``drop_path`` is asked for.
    """
    if drop_path:
        raise ConfigError(
            f"stochastic depth needs branches, and those of {type(layer).__name__} are not known",
            where="backbone.drop_path",
            remedy="Set backbone.drop_path=0, or install a version of transformers that is named "
            "in constraints.txt",
            kind="unknown_layer",
        )
    kind = type(layer)
    # Of a class of its own, so that its parameters keep their names.
    changed: Any = layer
    changed.__class__ = type(f"Whole{kind.__name__}", (_Whole, kind), {"is_last": is_last})
    return layer


class _Whole(nn.Module):
    is_last: bool

    def forward(
        self,
        hidden: Tensor,
        attention_mask: None = None,
        wanted: PatchMasks | None = None,
        **options: Any,
    ) -> Tensor:
        """As of :class:`~llava_rad.kernels.vit_layer.VitLayer`."""
        found = super().forward(hidden)
        tokens: Tensor = found[0] if isinstance(found, tuple) else found
        if not self.is_last or wanted is None:
            return tokens
        return torch.cat([tokens[:, 0], wanted.take(tokens)])[None]
