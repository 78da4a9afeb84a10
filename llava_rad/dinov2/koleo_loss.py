"""KoLeo: features of one batch are pushed away from their nearest neighbour.

The Kozachenko-Leonenko estimator of differential entropy as a regulariser (Sablayrolles et al.,
arXiv:1806.03198; DINOv2, arXiv:2304.07193, section 4).
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

# As in the reference implementation: once inside the distance, once inside the logarithm.
_EPSILON = 1e-8


def koleo_loss(features: Tensor, group_size: int | None = None) -> Tensor:
    """Mean negative log distance of each L2-normalised feature to its nearest neighbour.

    Always float32: in half precision the guard 1e-8 rounds to 0, and two copies of an image give
    an infinite loss.

    Args:
        features: ``[batch, dim]``.
        group_size: neighbours are looked for among this many consecutive features; the whole
            batch if None. Without neighbours the loss is 0 and a warning is given once.

    Returns:
        Scalar, float32, finite also for duplicated features.
    """
    with torch.autocast(features.device.type, enabled=False):
        normalised = F.normalize(features.float(), dim=-1, eps=_EPSILON)
        groups = normalised.split(group_size or max(len(normalised), 1))
        total = torch.stack([_negative_log_distances(group) for group in groups]).sum()
    return total / max(len(features), 1)


def _negative_log_distances(group: Tensor) -> Tensor:
    """Return the sum over one group ``[size, dim]``."""
    if len(group) < 2:
        warnings.warn(
            "KoLeo needs at least two images per group; a group of one adds nothing",
            stacklevel=3,
        )
        return group.sum() * 0
    with torch.no_grad():
        similarities = group @ group.T
        nearest = similarities.fill_diagonal_(-1).argmax(dim=1)
    distances = F.pairwise_distance(group, group[nearest], eps=_EPSILON)
    return -torch.log(distances + _EPSILON).sum()
