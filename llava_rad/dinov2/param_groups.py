"""Optimiser groups: which parameters decay, and how fast each part of the network learns."""

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from llava_rad.dinov2.schedules import StepValues

_EMBEDDING = "backbone.embeddings."
_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d+)\.")


def parameter_groups(
    student: nn.Module, layers: int, layer_decay: float, patch_embedding_lr: float
) -> list[dict[str, Any]]:
    """Group the student's parameters for AdamW.

    Biases, norms and layer scale do not decay. Layer ``i`` of the backbone (from 1) learns
    ``layer_decay ** (layers + 1 - i)`` times as fast as the heads and the final norm, embeddings
    as a layer 0, the patch embedding ``patch_embedding_lr`` times that.

    Returns:
        Groups with ``params`` and the keys ``lr_factor``, ``decays``, ``is_backbone`` and
        ``is_last_layer`` that :func:`apply_step_values` reads.
    """
    groups: defaultdict[tuple[float, bool, bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in student.named_parameters():
        name = name.removeprefix("module.")
        if not parameter.requires_grad:
            continue
        depth = layers + 1
        if name.startswith(_EMBEDDING):
            depth = 0
        elif match := _LAYER.match(name):
            depth = int(match.group(1)) + 1
        lr_factor = layer_decay ** (layers + 1 - depth)
        if name.startswith(_EMBEDDING + "patch_embeddings."):
            lr_factor *= patch_embedding_lr
        decays = not (name.endswith(".bias") or "norm" in name or "layer_scale" in name)
        key = (lr_factor, decays, name.startswith("backbone."), ".last_layer." in name)
        groups[key].append(parameter)
    return [
        {
            "params": parameters,
            "lr_factor": lr_factor,
            "decays": decays,
            "is_backbone": is_backbone,
            "is_last_layer": is_last_layer,
        }
        for (lr_factor, decays, is_backbone, is_last_layer), parameters in groups.items()
    ]


def apply_step_values(optimiser: torch.optim.Optimizer, values: StepValues) -> None:
    """Set every group's learning rate and weight decay for one step."""
    for group in optimiser.param_groups:
        lr = values.lr
        if group["is_backbone"]:
            lr = values.backbone_lr
        elif group["is_last_layer"]:
            lr = values.last_layer_lr
        group["lr"] = lr * group["lr_factor"]
        group["weight_decay"] = values.weight_decay if group["decays"] else 0.0
