"""Attention for training on a CPU.

torch's fused attention is fast forward and slow backward on CPUs, and transformers' written-out
one keeps every square of scores in two formats and computes what lies ahead as well. Here causal
attention runs fused forward and is computed again in the backward pass, a few heads and a block of
queries at a time with the keys that they see; nothing but queries, keys and values is kept. What
has a mask, as in generation, is written out. The results are those of transformers' ``eager``, up
to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from llava_rad.errors import ModelError

#: Name for transformers' ``attn_implementation``.
CPU_ATTENTION = "llava_rad_cpu"

# Queries that the backward pass takes at once.
_BLOCK = 128
# Scores that it takes at once, about.
_SCORES = 2**19


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
        mask: true where a query sees a key, [batch or 1, 1, length, key length]; None for causal
            attention, and for a single query, which sees every key.
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
    scale = width**-0.5 if scaling is None else scaling
    dropped = dropout if module.training else 0.0
    causal = mask is None and length > 1 and getattr(module, "is_causal", True)
    # Cast by hand, once: autocast would compute the softmax in float32 and keep that copy.
    with torch.autocast(query.device.type, enabled=False):
        if causal and not dropped:
            out: Tensor = _CausalAttention.apply(query, key, value, scale)
            return out.transpose(1, 2).contiguous(), None
        if causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        grouped = (batch, key.shape[1], -1, width)
        scores = ((query * scale).reshape(grouped) @ key.transpose(2, 3)).unflatten(2, (-1, length))
        if mask is not None:
            least = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask.unsqueeze(-3), least)
        weights = nn.functional.dropout(scores.softmax(-1), dropped)
        out = (weights.flatten(2, 3) @ value).view(batch, heads, length, -1)
    return out.transpose(1, 2).contiguous(), None


class _CausalAttention(torch.autograd.Function):
    """Each query sees the keys up to its own place."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # [batch, heads, length, width]
        key: Tensor,  # [batch, key heads, length, width]
        value: Tensor,  # as key
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # Once: gradient checkpointing hands them out a single time.
        saved = ctx.saved_tensors
        # Heads that share keys are put under one another: [groups, heads of each, length, width].
        keys, values = (tensor.flatten(0, 1) for tensor in saved[1:])
        groups = len(keys)
        query, of_out = (
            tensor.reshape(groups, -1, *tensor.shape[2:]) for tensor in (saved[0], gradients[0])
        )
        heads, length = query.shape[1:3]
        of_query = torch.empty_like(query)
        of_keys, of_values = torch.zeros_like(keys), torch.zeros_like(values)
        # As many groups at once as keep a block's scores in a processor's cache.
        size = max(1, round(_SCORES / (heads * min(_BLOCK, length) * length)))
        for group in range(0, groups, size):
            own = slice(group, group + size)
            seen, seen_values = keys[own], values[own]
            for start in range(0, length, _BLOCK):
                end = min(start + _BLOCK, length)
                rows = (query[own, :, start:end] * ctx.scale).flatten(1, 2)
                of_rows = of_out[own, :, start:end].flatten(1, 2)
                scores = rows @ seen[:, :end].transpose(1, 2)
                ahead = scores.new_full((end - start, end - start), -torch.inf).triu(1)
                scores.unflatten(1, (-1, end - start))[..., start:] += ahead
                weights = scores.softmax(-1)
                of_values[own, :end].baddbmm_(weights.transpose(1, 2), of_rows)
                of_weights = of_rows @ seen_values[:, :end].transpose(1, 2)
                of_scores = torch.ops.aten._softmax_backward_data(
                    of_weights, weights, -1, weights.dtype
                )
                of_query[own, :, start:end] = (of_scores @ seen[:, :end]).unflatten(1, (heads, -1))
                of_keys[own, :end].baddbmm_(of_scores.transpose(1, 2), rows)
        return (
            of_query.mul_(ctx.scale).view_as(saved[0]),
            of_keys.view_as(saved[1]),
            of_values.view_as(saved[2]),
            None,
        )


AttentionInterface.register(CPU_ATTENTION, cpu_attention)
AttentionMaskInterface.register(CPU_ATTENTION, sdpa_mask)
