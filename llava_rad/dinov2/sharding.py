"""Student and teacher split over processes with FSDP2, and whole tensors out of it and back.

Nothing else in the package knows whether a parameter is whole or split.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.runs.distributed import world_size

# What data-parallel training puts into names.
_WRAPPER = re.compile(r"\bmodule\.")


def shard(model: StudentTeacher, compute_dtype: torch.dtype | None) -> None:
    """Split parameters, gradients and what the optimiser keeps over all processes, in place.

    Layers are gathered one at a time, in the forward pass and again in the backward pass.

    Args:
        model: on its device, made without a ``compute_dtype`` of its own.
        compute_dtype: of both networks' forward passes, except for the prototypes.
    """
    # Outputs are slices of one tensor, and nobody changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for network in (model.student, model.teacher):
        backbone: Any = network.backbone
        for layer in backbone.encoder.layer:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        for head in (network.dino_head, network.ibot_head):
            if head is not None:
                fully_shard(head.last_layer, mesh=mesh, reshard_after_forward=True)
        # Without this the teacher, which has no backward pass, would stay gathered.
        fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def synchronise_gradients(student: nn.Module, when: bool) -> None:
    """Say whether the next backward pass of a sharded student exchanges gradients."""
    if isinstance(student, FSDPModule):
        student.set_requires_gradient_sync(when)


def whole(tensor: Tensor) -> Tensor:
    """Gather a split tensor. Every process has to call this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """Split a whole ``value`` as ``tensor`` is. Every process has to call this."""
    value = value.to(tensor.device, tensor.dtype)
    if isinstance(tensor, DTensor):
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value


def whole_state(module: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies on the CPU of all tensors of a module, under their plain names.

    Every process has to call this; those that do not ``keep`` the result get an empty dictionary.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        gathered = whole(tensor)
        if keep:
            state[plain_name(name)] = gathered.to("cpu", copy=True).contiguous()
    return state


@torch.no_grad()
def load_whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`whole_state`; the names must be the same."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(like(tensor, state[plain_name(name)]))


def plain_name(name: str) -> str:
    """Drop what data-parallel training adds to the name of a parameter."""
    return _WRAPPER.sub("", name)
