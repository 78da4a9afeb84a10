"""The gated unit of Llama's kind, silu(gate) * up, that keeps its two inputs alone.

A block of rows at a time is taken through all its steps, small enough to stay in a processor's
cache: memory is read and written once instead of five times.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from llava_rad.kernels.row_blocks import row_blocks

#: Elements of a block.
BLOCK = 2**17


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, all [..., width]; the silu is computed again in the backward pass."""
    out: Tensor = _SwiGLU.apply(gate, up)
    return out


def swiglu_gradient(gate: Tensor, up: Tensor, of_out: Tensor, of_gate: Tensor) -> Tensor:
    """The unit's output once more and its gradients, in place.

    Args:
        gate: [rows, width].
        up: [rows, width].
        of_out: [rows, width], gradient of the output; becomes that of ``up``.
        of_gate: [rows, width], to be filled with the gradient of ``gate``.

    Returns:
        The output, [rows, width].
    """
    opened = silu(gate)
    torch.ops.aten.silu_backward.grad_input(of_out * up, gate, grad_input=of_gate)
    of_out.mul_(opened)
    return opened.mul_(up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = gate.new_empty(gate.shape)
        for gate_rows, up_rows, rows in row_blocks(gate, up, out, elements=BLOCK):
            torch.mul(silu(gate_rows), up_rows, out=rows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = gradients[0].clone(memory_format=torch.contiguous_format)
        of_gate = torch.empty_like(of_up)
        for rows in row_blocks(gate, up, of_up, of_gate, elements=BLOCK):
            swiglu_gradient(*rows)
        return of_gate, of_up
