"""What a model and its optimiser hold, by name: for a checkpoint, and back, however it is split.

Names are those of the parameters; an optimiser's tensors are named ``PARAMETER|KEY``.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from llava_rad.errors import TrainingError
from llava_rad.runs.parts import SavedTensors

# What data-parallel training puts into names.
_WRAPPER = re.compile(r"\bmodule\.")


def plain_name(name: str) -> str:
    """Drop what data-parallel training adds to the name of a parameter."""
    return _WRAPPER.sub("", name)


def whole(tensor: Tensor) -> Tensor:
    """Gather a split tensor."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(named: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU by plain name; empty where they are not kept.

    Every process has to call this: split tensors are gathered, one at a time.
    """
    found = {}
    for name, tensor in named:
        gathered = whole(tensor)
        if keep:
            found[plain_name(name)] = gathered.to("cpu", copy=True).contiguous()
    return found


def restore_tensors(named: Iterable[tuple[str, Tensor]], saved: SavedTensors) -> None:
    """Read the tensors of a checkpoint into those of a model, one at a time.

    Raises:
        TrainingError: names or shapes are those of another model.
    """
    own = {plain_name(name): tensor for name, tensor in named}
    wrong = sorted(own.keys() ^ saved.keys()) or [
        name for name, tensor in own.items() if tensor.shape != saved.shape(name)
    ]
    if wrong:
        raise TrainingError(
            f"the checkpoint is of another model ({len(wrong)} tensors differ, first {wrong[0]})",
            remedy="Resume with the configuration and the version of this program that the run "
            "was started with",
            kind="other_model",
        )
    for name, tensor in own.items():
        saved.read_into(name, tensor)


def optimiser_tensors(named: Iterable[tuple[str, Tensor]], optimiser: Any) -> dict[str, Tensor]:
    """What an optimiser keeps for each parameter, by ``PARAMETER|KEY``; nothing is copied."""
    return {
        f"{name}|{key}": value
        for name, parameter in named
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    named: Iterable[tuple[str, Tensor]], optimiser: Any, saved: SavedTensors
) -> None:
    """Read what an optimiser that has not stepped yet kept in a checkpoint.

    Raises:
        TrainingError: a parameter is not known.
    """
    parameters = {plain_name(name): parameter for name, parameter in named}
    on_device = optimiser.defaults.get("fused") or optimiser.defaults.get("capturable")
    for full_name in saved:
        name, key = full_name.rsplit("|", 1)
        parameter = parameters.get(name)
        if parameter is None:
            raise TrainingError(
                f"the checkpoint is of another model (it trains {name})",
                remedy="Resume with the configuration the run was started with",
                kind="other_model",
            )
        shape = saved.shape(full_name)
        if shape == parameter.shape and len(shape) > 0:
            value = torch.empty_like(parameter, dtype=saved.dtype(full_name))
            saved.read_into(full_name, value)
        else:  # the number of steps
            value = saved[full_name].to(parameter.device if on_device else "cpu")
        optimiser.state[parameter][key] = value
