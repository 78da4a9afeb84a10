"""What autograd keeps for the backward pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def kept_for_backward() -> Iterator[list[Tensor]]:
    """Collect the tensors that operations in this context keep, in their order."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def storage_bytes(kept: Iterable[Tensor], without: Iterable[Tensor] = ()) -> dict[int, int]:
    """Bytes of each storage by its address, those of ``without`` left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in without}
    storages = (tensor.untyped_storage() for tensor in kept)
    return {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}
