"""Weights and optimiser state of a model as whole tensors by name, however it is distributed.

Plain and data-parallel training hold whole tensors. FSDP2 holds DTensors, DeepSpeed parts in flat
buffers, which are gathered here: every process has to call these functions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_rad.errors import TrainingError
from llava_rad.report_training.zero import (
    is_zero,
    restore_zero_state,
    whole_zero_state,
    whole_zero_weight,
)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Whole copies on the CPU of the parameters that are trained."""
    return {name: _whole(p) for name, p in model.named_parameters() if p.requires_grad}


def optimiser_state(model: nn.Module, optimiser: Any) -> dict[str, Tensor]:
    """Whole copies on the CPU of the optimiser's tensors, named ``PARAMETER|KEY``."""
    state = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kept = (
            whole_zero_state(optimiser, parameter)
            if is_zero(parameter)
            else optimiser.state.get(parameter, {})
        )
        for key, value in kept.items():
            state[f"{name}|{key}"] = _whole(value)
    return state


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`trained_weights`, for a model that is not distributed.

    Raises:
        TrainingError: the weights are of another model.
    """
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(own.keys() ^ weights.keys()) or [
        name for name, p in own.items() if p.shape != weights[name].shape
    ]
    if wrong:
        raise TrainingError(
            f"the checkpoint is of another model ({len(wrong)} tensors differ, first {wrong[0]})",
            remedy="Resume with the configuration the run was started with",
            kind="other_model",
        )
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def restore_optimiser(model: nn.Module, optimiser: Any, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`optimiser_state`, for an optimiser that has not stepped yet."""
    parameters = dict(model.named_parameters())
    if any(is_zero(parameter) for parameter in parameters.values()):
        restore_zero_state(parameters, optimiser, state)
        return
    for full_name, value in state.items():
        name, key = full_name.rsplit("|", 1)
        parameter = parameters[name]
        same_shape = value.shape == parameter.shape and value.ndim > 0
        optimiser.state[parameter][key] = _like(parameter, value) if same_shape else value.clone()


def _whole(tensor: Tensor) -> Tensor:
    if is_zero(tensor):
        tensor = whole_zero_weight(tensor)
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True).contiguous()


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    value = value.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value.clone()
