"""One process reads a model, the others receive it: a part at a time, straight to the device.

The others build the model without storage, on torch's meta device. So the host holds the weights
once, whatever the number of its processes.
"""

from collections.abc import Collection, Iterator

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
        TrainingError: a part keeps a tensor that is neither parameter nor buffer, which the others
            would not get.
    """
    moved: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, so that its id stays its own
    for part in _parts(module, set(leave)):
        for store in (part._parameters, part._buffers):
            for name, old in list(store.items()):
                if old is None or isinstance(old, DTensor):
                    continue
                if id(old) not in moved:
                    moved[id(old)] = (old, _received(old, device))
                store[name] = moved[id(old)][1]  # type: ignore[assignment]
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise TrainingError(
                    f"{type(part).__name__} keeps {name} beside its parameters and buffers",
                    remedy="Use sharding=none on one process, or zero2 or zero3",
                    kind="hidden_tensor",
                )


def _parts(module: nn.Module, leave: set[nn.Module]) -> Iterator[nn.Module]:
    if module not in leave:
        yield module
        for child in module.children():
            yield from _parts(child, leave)


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
