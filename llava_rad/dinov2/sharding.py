"""Student and teacher split over processes with FSDP2.

:mod:`llava_rad.runs.state` gets whole tensors out of it and back.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.runs.distributed import world_size


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
