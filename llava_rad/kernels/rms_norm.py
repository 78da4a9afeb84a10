"""RMSNorm that keeps its input and one number a row.

As transformers writes it, the norm keeps its input in float32 and several products beside it, and
passes over them a dozen times. Here a block of rows at a time goes through float32, small enough
to stay in a processor's cache, and what the gradient needs is computed again.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llava_rad.kernels.row_blocks import row_blocks

# Elements of a block.
_BLOCK = 2**16


class RMSNorm(nn.Module):
    """x / rms(x) in float32, rounded to the dtype of x, times the weight; as Llama has it.

    Args:
        weight: [width].
        eps: added to the mean square.
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm of ``x`` [..., width]."""
        out: Tensor = _RMSNorm.apply(x, self.weight, self.variance_epsilon)
        return out

    def extra_repr(self) -> str:
        """Width and epsilon, for printing."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.new_empty(len(rows), 1, dtype=torch.float32)
        out = rows.new_empty(rows.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
        for block, factors, normed in row_blocks(rows, scale, out, elements=_BLOCK):
            exact = block.float()
            torch.rsqrt(exact.square().mean(-1, keepdim=True).add_(eps), out=factors)
            torch.mul((exact * factors).to(x.dtype), weight, out=normed)
        ctx.save_for_backward(rows, scale, weight)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, scale, weight = ctx.saved_tensors
        gradient = gradients[0].reshape(rows.shape)
        of_rows = torch.empty_like(rows)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        weights = weight.float()
        for block, factors, of_out, out in row_blocks(
            rows, scale, gradient, of_rows, elements=_BLOCK
        ):
            normed = block * factors
            if ctx.needs_input_grad[1]:
                of_weight += (of_out * normed).sum(0)
            of_normed = of_out * weights
            # What only changes the length of a row is undone by the norm.
            along = (of_normed * normed).mean(-1, keepdim=True)
            of_normed -= normed.mul_(along)
            torch.mul(of_normed, factors, out=out)
        return of_rows.view(gradients[0].shape), of_weight.to(weight.dtype), None
