"""What a run trains, and what its optimiser keeps, for checkpoints and saved models.

FSDP2 holds DTensors, DeepSpeed parts in flat buffers, which are gathered here.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from llava_rad.report_training.zero import (
    is_zero,
    restore_zero_state,
    zero_state,
    zero_weight,
)
from llava_rad.runs.parts import Gathered, SavedTensors
from llava_rad.runs.state import optimiser_tensors as plain_optimiser_tensors
from llava_rad.runs.state import restore_optimiser as restore_plain_optimiser
from llava_rad.runs.state import restore_tensors, whole_tensors


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with a gradient."""
    return [p for _, p in _trained(model)]


def trained_tensors(model: nn.Module) -> dict[str, Tensor | Gathered]:
    """The parameters that are trained by name, for a checkpoint; nothing is copied."""
    return {n: zero_weight(p) if is_zero(p) else p for n, p in _trained(model)}


def whole_trained_tensors(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Whole copies on the CPU of the parameters that are trained; empty where not kept.

    Every process has to call this.
    """
    named = (
        (name, value.gather() if isinstance(value, Gathered) else value)
        for name, value in trained_tensors(model).items()
    )
    return whole_tensors(named, keep)


def optimiser_tensors(model: nn.Module, optimiser: Any) -> dict[str, Tensor | Gathered]:
    """The optimiser's tensors, named ``PARAMETER|KEY``, for a checkpoint; nothing is copied."""
    if not any(is_zero(p) for _, p in _trained(model)):
        return {**plain_optimiser_tensors(_trained(model), optimiser)}
    return {
        f"{name}|{key}": value
        for name, parameter in _trained(model)
        for key, value in zero_state(optimiser, parameter).items()
    }


def restore_weights(model: nn.Module, saved: SavedTensors) -> None:
    """Read trained parameters from a checkpoint, before DeepSpeed has the model.

    Raises:
        TrainingError: the weights are of another model.
    """
    restore_tensors(_trained(model), saved)


def restore_optimiser(model: nn.Module, optimiser: Any, saved: SavedTensors) -> None:
    """Read what an optimiser that has not stepped yet kept in a checkpoint."""
    if any(is_zero(parameter) for parameter in model.parameters()):
        restore_zero_state(dict(model.named_parameters()), optimiser, saved)
    else:
        restore_plain_optimiser(model.named_parameters(), optimiser, saved)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    # After a forward pass without a backward pass FSDP2 leaves whole parameters in the place of
    # those that the optimiser knows.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
