"""The patch embedding of gray images, without making them three channels wide."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear


class GrayPatches(nn.Module):
    """Stands in for transformers' patch embedding, with its names of parameters.

    An image that is gray in all channels is embedded by the sum of the weights over channels: the
    same result from a third of the numbers. Images in colour are embedded as ever.

    Args:
        embedding: of DINOv2, without or with registers.
    """

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.projection: nn.Conv2d = embedding.projection
        self.patch_size: tuple[int, int] = embedding.patch_size
        self.num_patches: int = embedding.num_patches

    def forward(self, images: Tensor) -> Tensor:
        """Map images, ``[batch, 1 or 3, H, W]``, to ``[batch, patches, dim]``."""
        weight = self.projection.weight
        images = images.to(weight.dtype)
        if images.shape[1] > 1:
            embedded: Tensor = self.projection(images)
            return embedded.flatten(2).transpose(1, 2)
        height, width = self.patch_size
        rows, columns = images.shape[2] // height, images.shape[3] // width
        # What is beyond the last whole patch is left out, as a convolution does.
        patches = images[:, 0, : rows * height, : columns * width]
        patches = patches.unflatten(2, (columns, width)).unflatten(1, (rows, height))
        patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)
        return linear(patches, weight.sum(1).flatten(1), self.projection.bias)
