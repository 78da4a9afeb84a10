"""A linear layer with LoRA, computed in the fewest passes over its input and output.

peft's own layer casts its whole input to the dtype of the LoRA (float32 in training, back again
under autocast, and keeps that copy for the backward pass), scales the whole update and adds it in
a pass of its own. Here the update goes through tensors of the rank's width alone, is added by the
matrix product that makes it, and the input is kept once for all layers that read it. The result
is peft's, up to rounding; names, saved files and merging are peft's own.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class LoraLinear(Linear):
    """peft's LoRA layer with a leaner forward and backward pass."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base layer and update of ``x`` [..., in features]."""
        base: Any = self.base_layer
        name = self._plain_adapter()
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        kind = x.device.type
        dtype: torch.dtype = base.weight.dtype
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        dropout = self.lora_dropout[name]
        dropped = None
        if self.training and isinstance(dropout, nn.Dropout):
            dropped = dropout(x).to(dtype)
        out: Tensor = _LoraProduct.apply(
            x.to(dtype),
            dropped,
            base.weight,
            base.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
        )
        return out

    def _plain_adapter(self) -> str | None:
        """The adapter to apply, if it is a single unmerged LoRA on a frozen layer, whole here."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        weight = self.base_layer.weight
        # DeepSpeed's ZeRO-3 brings weights together only for the layer that is called itself.
        if weight.requires_grad or hasattr(weight, "ds_id"):
            return None
        return name


class _LoraProduct(torch.autograd.Function):
    """x W^T + b + scale (d A^T) B^T, where d is x, or x after dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., in]
        dropped: Tensor | None,  # [..., in]
        weight: Tensor,  # [out, in]
        bias: Tensor | None,  # [out]
        down: Tensor,  # [rank, in]
        up: Tensor,  # [out, rank]
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        shown = rows if dropped is None else dropped.reshape(-1, x.shape[-1])
        low = shown @ down.to(x.dtype).T
        out = nn.functional.linear(
            rows, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        )
        out.addmm_(low, (up * scale).to(x.dtype).T)
        ctx.save_for_backward(shown, weight, down, up, low)
        ctx.scale, ctx.is_dropped = scale, dropped is not None
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shown, weight, down, up, low = ctx.saved_tensors
        *leading, width = gradients[0].shape
        gradient = gradients[0].reshape(-1, width)
        dtype = gradient.dtype
        low_gradient = gradient @ (up * ctx.scale).to(dtype)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ weight.to(dtype)
            if not ctx.is_dropped:
                of_x.addmm_(low_gradient, down.to(dtype))
            of_x = of_x.view(*leading, of_x.shape[-1])
        if ctx.needs_input_grad[1]:
            of_dropped = (low_gradient @ down.to(dtype)).view(*leading, down.shape[-1])
        of_down = (low_gradient.T @ shown).to(down.dtype)
        of_up = (gradient.T @ low).to(up.dtype).mul_(ctx.scale)
        return of_x, of_dropped, None, None, of_down, of_up, None
