"""A linear layer with LoRA, computed in the fewest passes over its input and output.

peft's own layer casts its whole input to the dtype of the LoRA (float32 in training, back again
under autocast, and keeps that copy for the backward pass), scales the whole update and adds it in
a pass of its own. Here the update goes through tensors of the rank's width alone, is added by the
matrix product that makes it, and the input is kept once for all layers that read it; that of a
layer below a gated unit is not kept at all but made again from what the unit keeps. The result is
peft's, up to rounding; names, saved files and merging are peft's own.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from llava_rad.kernels.row_blocks import row_blocks
from llava_rad.kernels.swiglu import BLOCK, swiglu, swiglu_gradient


class LoraLinear(Linear):
    """peft's LoRA layer with a leaner forward and backward pass."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base layer and update of ``x`` [..., in features]."""
        name = self._plain_adapter()
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        dtype = self._computed_in(x.device)
        dropped = self.lora_dropout[name](x).to(dtype) if self._drops(name) else None
        out: Tensor = _LoraProduct.apply(x.to(dtype), dropped, *self._tensors(name))
        return out

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Base layer and update of silu(gate) * up, both [..., in features].

        That product is made again in the backward pass, except where the LoRA has dropout: then
        it is kept with what was dropped.
        """
        name = self._plain_adapter()
        dtype = self._computed_in(gate.device)
        if name is None or self._drops(name) or gate.dtype != dtype or up.dtype != dtype:
            product: Tensor = self(swiglu(gate, up))
            return product
        out: Tensor = _GatedLoraProduct.apply(gate, up, *self._tensors(name))
        return out

    def _computed_in(self, device: torch.device) -> torch.dtype:
        if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        base: Any = self.base_layer
        dtype: torch.dtype = base.weight.dtype
        return dtype

    def _drops(self, name: str) -> bool:
        return self.training and isinstance(self.lora_dropout[name], nn.Dropout)

    def _tensors(self, name: str) -> tuple[Any, ...]:
        """Weight and bias of the base layer, the two matrices of the update and its scale."""
        base: Any = self.base_layer
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return base.weight, base.bias, down, up, self.scaling[name]

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
        # Made in its final shape, since a view could not be changed in place, as Falcon does.
        out = x.new_empty(*x.shape[:-1], weight.shape[0])
        low = _product(rows, shown, weight, bias, down, up, scale, out.view(-1, out.shape[-1]))
        ctx.save_for_backward(shown, weight, down, up, low)
        ctx.scale, ctx.is_dropped = scale, dropped is not None
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shown, weight, down, up, low = ctx.saved_tensors
        *leading, width = gradients[0].shape
        gradient = gradients[0].reshape(-1, width)
        dtype = gradient.dtype
        low_gradient, of_up = _update_backward(gradient, low, up, ctx.scale)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ weight.to(dtype)
            if not ctx.is_dropped:
                of_x.addmm_(low_gradient, down.to(dtype))
            of_x = of_x.view(*leading, of_x.shape[-1])
        if ctx.needs_input_grad[1]:
            of_dropped = (low_gradient @ down.to(dtype)).view(*leading, down.shape[-1])
        of_down = (low_gradient.T @ shown).to(down.dtype)
        return of_x, of_dropped, None, None, of_down, of_up, None


class _GatedLoraProduct(torch.autograd.Function):
    """The same of x = silu(gate) * upper, without dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,  # [..., in]
        upper: Tensor,  # [..., in]
        weight: Tensor,  # [out, in]
        bias: Tensor | None,  # [out]
        down: Tensor,  # [rank, in]
        up: Tensor,  # [out, rank]
        scale: float,
    ) -> Tensor:
        rows = swiglu(gate, upper).view(-1, gate.shape[-1])
        out = gate.new_empty(*gate.shape[:-1], weight.shape[0])
        low = _product(rows, rows, weight, bias, down, up, scale, out.view(-1, out.shape[-1]))
        ctx.save_for_backward(gate, upper, weight, down, up, low)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, upper, weight, down, up, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        dtype = gradient.dtype
        low_gradient, of_up = _update_backward(gradient, low, up, ctx.scale)
        of_upper = (gradient @ weight.to(dtype)).addmm_(low_gradient, down.to(dtype))
        of_gate, of_down = torch.empty_like(of_upper), torch.zeros_like(down)
        for gates, uppers, of_uppers, of_gates, low_rows in row_blocks(
            gate, upper, of_upper, of_gate, low_gradient, elements=BLOCK
        ):
            product = swiglu_gradient(gates, uppers, of_uppers, of_gates)
            of_down += low_rows.T @ product
        return of_gate.view(gate.shape), of_upper.view(gate.shape), None, None, of_down, of_up, None


def _product(
    rows: Tensor,
    shown: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    scale: float,
    out: Tensor,
) -> Tensor:
    """Put rows W^T + b + scale low B^T into ``out``; gives low, which is shown A^T."""
    dtype = rows.dtype
    low: Tensor = shown @ down.to(dtype).T
    if bias is None:
        torch.mm(rows, weight.to(dtype).T, out=out)
    else:
        torch.addmm(bias.to(dtype), rows, weight.to(dtype).T, out=out)
    out.addmm_(low, (up * scale).to(dtype).T)
    return low


def _update_backward(
    gradient: Tensor, low: Tensor, up: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of low, in its dtype, and of B, in its own."""
    of_low = gradient @ (up * scale).to(gradient.dtype)
    return of_low, (low.T @ gradient).T.to(up.dtype).mul_(scale)
