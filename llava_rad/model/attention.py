"""Attention for training on a CPU, written out.

torch's fused attention has a slow backward pass on CPUs. transformers' written-out one repeats
keys and values for every group of heads, and takes several passes in float32 over each square of
scores. This one takes as few passes as it can, in the dtype of its input: softmax sums in
float32 in any case. Its results are those of transformers' ``eager``, up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from llava_rad.errors import ModelError

#: Name for transformers' ``attn_implementation``.
CPU_ATTENTION = "llava_rad_cpu"


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with grouped heads.

    Args:
        module: the layer that calls.
        query: [batch, heads, length, width].
        key: [batch, key heads, key length, width]; heads is a multiple of key heads.
        value: as ``key``.
        mask: added to the scores, [batch or 1, 1, length, key length].
        scaling: of the scores; default: one over the root of the width.
        dropout: of the weights.
        options: of transformers; those that change the result are refused.

    Returns:
        [batch, length, heads, width], and None for the weights.

    Raises:
        ModelError: the LLM asks for something else than this.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ModelError(
                f"the LLM's attention has a {name}, which {CPU_ATTENTION} does not compute",
                where=type(module).__name__,
                remedy="Set attention=eager",
                kind="attention",
            )
    batch, heads, length, width = query.shape
    grouped = (batch, key.shape[1], -1, width)
    # Cast by hand, once: autocast would compute the softmax in float32 and keep that copy.
    with torch.autocast(query.device.type, enabled=False):
        scaled = query * (width**-0.5 if scaling is None else scaling)
        scores = scaled.reshape(grouped) @ key.transpose(2, 3)
        scores = scores.view(batch, heads, length, -1)
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        weights = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
        out = weights.view(batch, key.shape[1], -1, key.shape[2]) @ value
    return out.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(CPU_ATTENTION, cpu_attention)
AttentionMaskInterface.register(CPU_ATTENTION, eager_mask)
