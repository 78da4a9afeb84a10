"""The few collective operations the method needs; without a process group each is the identity.

Losses and targets are functions of the whole batch, not of one process's share of it, so that a
run gives the same numbers on one device and on many.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the element-wise sum of ``tensor`` over all processes; no gradient flows."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def max_over_processes(tensor: Tensor) -> Tensor:
    """Return the element-wise maximum of ``tensor`` over all processes; no gradient flows."""
    if world_size() == 1:
        return tensor
    largest = tensor.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate equally sized ``[batch, ...]`` tensors of all processes in rank order.

    Gradients flow back to the process that each row came from, summed over the processes.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.count
        return total[first : first + ctx.count]


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    return getattr(tensor, "ds_tensor", tensor).detach()  # DeepSpeed's stage 3
