"""Weights and optimiser state of a model as whole tensors by name, however it is distributed.

Plain and data-parallel training hold whole tensors. Fully sharded training (FSDP2) holds DTensors,
which are gathered here: every process has to call these functions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_rad.errors import TrainingError
from llava_rad.training.checkpoints import Checkpoint


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Whole copies on the CPU of the parameters that are trained."""
    return {name: _whole(p) for name, p in model.named_parameters() if p.requires_grad}


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Whole copies on the CPU of the optimiser's tensors, named ``PARAMETER|KEY``."""
    state = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            state[f"{name}|{key}"] = _whole(value)
    return state


@torch.no_grad()
def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`trained_weights`.

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
        parameter.copy_(_like(parameter, weights[name]))


def restore_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Inverse of :func:`optimiser_state`."""
    parameters = dict(model.named_parameters())
    for full_name, value in state.items():
        name, key = full_name.rsplit("|", 1)
        parameter = parameters[name]
        same_shape = value.shape == parameter.shape and value.ndim > 0
        optimiser.state[parameter][key] = _like(parameter, value) if same_shape else value.clone()


def restore(checkpoint: Checkpoint, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimiser state into a model and its optimiser."""
    weights, state = checkpoint.tensors()
    restore_weights(model, weights)
    restore_optimiser(model, optimiser, state)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True).contiguous()


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    value = value.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value.clone()
