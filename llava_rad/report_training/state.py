"""What a run trains, and what its optimiser keeps, as whole tensors and back.

Checkpoints and saved models hold whole tensors. FSDP2 holds DTensors, DeepSpeed parts in flat
buffers, which are gathered here: every process has to call these functions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from llava_rad.report_training.zero import (
    is_zero,
    restore_zero_state,
    whole_zero_state,
    whole_zero_weight,
)
from llava_rad.runs.state import restore_optimiser as restore_plain_optimiser
from llava_rad.runs.state import (
    restore_tensors,
    whole_optimiser,
    whole_tensors,
)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with a gradient."""
    return [p for _, p in _trained(model)]


def trained_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies on the CPU of the parameters that are trained; empty where not kept."""
    named = ((n, whole_zero_weight(p) if is_zero(p) else p) for n, p in _trained(model))
    return whole_tensors(named, keep)


def optimiser_state(model: nn.Module, optimiser: Any, *, keep: bool = True) -> dict[str, Tensor]:
    """Whole copies on the CPU of the optimiser's tensors, named ``PARAMETER|KEY``."""
    if not any(is_zero(p) for _, p in _trained(model)):
        return whole_optimiser(_trained(model), optimiser, keep)
    parts = (
        (f"{name}|{key}", value)
        for name, parameter in _trained(model)
        for key, value in whole_zero_state(optimiser, parameter).items()
    )
    return whole_tensors(parts, keep)


def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`trained_weights`, for a model that is not distributed.

    Raises:
        TrainingError: the weights are of another model.
    """
    restore_tensors(_trained(model), weights)


def restore_optimiser(model: nn.Module, optimiser: Any, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`optimiser_state`, for an optimiser that has not stepped yet."""
    if any(is_zero(parameter) for parameter in model.parameters()):
        restore_zero_state(dict(model.named_parameters()), optimiser, state)
    else:
        restore_plain_optimiser(model.named_parameters(), optimiser, state)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
