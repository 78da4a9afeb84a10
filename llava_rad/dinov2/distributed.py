"""The few collective operations the method needs; without a process group each is the identity.

Losses and targets are functions of the whole batch, not of one process's share of it, so that a
run gives the same numbers on one device and on many.
"""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor


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

    Gradients flow back to the process that each row came from.
    """
    if world_size() == 1:
        return rows
    return torch.cat(differentiable.all_gather(rows.contiguous()))
