"""One process reads a model, the others receive it: a part at a time, straight to the device.

The others build the model without storage, on torch's meta device. So the host holds the weights
once, whatever the number of its processes.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llava_rad.errors import TrainingError
from llava_rad.runs.distributed import world_size


def receive(module: nn.Module, device: torch.device, leave: Collection[nn.Module] = ()) -> None:
    """Put what the main process holds of a module on the device of every process, in place.

    Every process has to call this, with the same module. Parameters that are shared stay shared.

    Args:
        module: with values in the main process; elsewhere they may lie on the meta device.
        device: of this process.
        leave: modules within it that are left as they are.

    Raises:
        TrainingError: the module is another one in some process, or a part keeps a tensor that is
            neither parameter nor buffer, which the others would not get.
    """
    slots: dict[str, tuple[Any, str]] = {
        f"{where}{name}": (store, name)
        for where, part in _parts(module, set(leave))
        for store in (part._parameters, part._buffers)
        for name, tensor in store.items()
        if tensor is not None and not isinstance(tensor, DTensor)
    }
    for name, (same, shape, dtype) in _as_in_main(slots).items():
        store, own_name = slots[name]
        old: Tensor = store[own_name]
        if (old.shape, old.dtype) != (shape, dtype):
            raise _other_model(name)
        if same == name:
            store[own_name] = _received(old, device)
        else:
            first, first_name = slots[same]
            store[own_name] = first[first_name]
    for _, part in _parts(module, set(leave)):
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise TrainingError(
                    f"{type(part).__name__} keeps {name} beside its parameters and buffers",
                    remedy="Use one process, or an LLM of another family",
                    kind="hidden_tensor",
                )


def _as_in_main(slots: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[str, Any, Any]]:
    """Of each tensor in the main process: the first name that it is known by, shape and dtype."""
    first: dict[int, str] = {}
    found: list[Any] = [
        {
            name: (first.setdefault(id(store[own]), name), store[own].shape, store[own].dtype)
            for name, (store, own) in slots.items()
        }
    ]
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0)
        if differing := found[0].keys() ^ slots.keys():
            raise _other_model(min(differing))
    facts: dict[str, tuple[str, Any, Any]] = found[0]
    return facts


def _other_model(name: str) -> TrainingError:
    return TrainingError(
        f"{name} is not the same in all processes",
        remedy="See that all run the same version with the same model folder",
        kind="other_model",
    )


def _parts(
    module: nn.Module, leave: set[nn.Module], where: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    if module not in leave:
        yield where, module
        for name, child in module.named_children():
            yield from _parts(child, leave, f"{where}{name}.")


def _received(old: Tensor, device: torch.device) -> Tensor:
    """The main process's values of a tensor, on the device; a parameter stays one."""
    values = torch.empty_like(old, device=device) if old.is_meta else old.detach().to(device)
    values = values.contiguous()
    if world_size() > 1:
        # As bytes: not every backend knows every dtype.
        dist.broadcast(values.view(-1).view(torch.uint8) if values.numel() else values, src=0)
    if not isinstance(old, nn.Parameter):
        return values
    return nn.Parameter(values, requires_grad=old.requires_grad)
