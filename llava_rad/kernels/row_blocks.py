"""Rows of tensors a block at a time, so that what is made of a block stays in a cache."""

from collections.abc import Iterator

from torch import Tensor


def row_blocks(*tensors: Tensor, elements: int) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all tensors ``[..., width]``, block by block, each ``[rows, width]``.

    Args:
        tensors: with equally many rows; contiguous where the blocks are written to.
        elements: of a block of the first tensor; at least one row is taken.
    """
    rows = max(1, elements // tensors[0].shape[-1])
    flat = (tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors)
    return zip(*(tensor.split(rows) for tensor in flat), strict=True)
