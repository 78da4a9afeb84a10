"""Whole tensors out of a model and its optimiser, and back into them, however they are split.

Names are those of the parameters; an optimiser's tensors are named ``PARAMETER|KEY``. Every process
has to call these functions, since split tensors are gathered, one at a time; only a process that
keeps them holds the result.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from llava_rad.errors import TrainingError

# What data-parallel training puts into names.
_WRAPPER = re.compile(r"\bmodule\.")


def plain_name(name: str) -> str:
    """Drop what data-parallel training adds to the name of a parameter."""
    return _WRAPPER.sub("", name)


def whole(tensor: Tensor) -> Tensor:
    """Gather a split tensor."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """Split a whole ``value`` as ``tensor`` is."""
    value = value.to(tensor.device, tensor.dtype)
    if isinstance(tensor, DTensor):
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value.clone()


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy in the host's memory."""
    return tensor.to("cpu", copy=True).contiguous()


def whole_tensors(named: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU by plain name; empty where they are not kept."""
    found = {}
    for name, tensor in named:
        gathered = whole(tensor)
        if keep:
            found[plain_name(name)] = on_cpu(gathered)
    return found


@torch.no_grad()
def restore_tensors(named: Iterable[tuple[str, Tensor]], values: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`whole_tensors`.

    Raises:
        TrainingError: names or shapes are those of another model.
    """
    own = {plain_name(name): tensor for name, tensor in named}
    wrong = sorted(own.keys() ^ values.keys()) or [
        name for name, tensor in own.items() if tensor.shape != values[name].shape
    ]
    if wrong:
        raise TrainingError(
            f"the checkpoint is of another model ({len(wrong)} tensors differ, first {wrong[0]})",
            remedy="Resume with the configuration and the version of this program that the run "
            "was started with",
            kind="other_model",
        )
    for name, tensor in own.items():
        tensor.copy_(like(tensor, values[name]))


def whole_optimiser(
    named: Iterable[tuple[str, Tensor]], optimiser: Any, keep: bool
) -> dict[str, Tensor]:
    """Whole copies on the CPU of what an optimiser keeps for each parameter."""
    return whole_tensors(
        (
            (f"{name}|{key}", value)
            for name, parameter in named
            for key, value in optimiser.state.get(parameter, {}).items()
        ),
        keep,
    )


def restore_optimiser(
    named: Iterable[tuple[str, Tensor]], optimiser: Any, state: Mapping[str, Tensor]
) -> None:
    """Inverse of :func:`whole_optimiser`.

    Raises:
        TrainingError: a parameter is not known.
    """
    parameters = {plain_name(name): parameter for name, parameter in named}
    on_device = optimiser.defaults.get("fused") or optimiser.defaults.get("capturable")
    for full_name, value in state.items():
        name, key = full_name.rsplit("|", 1)
        parameter = parameters.get(name)
        if parameter is None:
            raise TrainingError(
                f"the checkpoint is of another model (it trains {name})",
                remedy="Resume with the configuration the run was started with",
                kind="other_model",
            )
        same_shape = value.shape == parameter.shape and value.ndim > 0
        if same_shape:
            value = like(parameter, value)
        else:  # the number of steps
            value = value.to(parameter.device if on_device else "cpu", copy=True)
        optimiser.state[parameter][key] = value
