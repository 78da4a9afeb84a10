"""DINO: the student's CLS token of one crop predicts the teacher's of another.

arXiv:2104.14294, equation 3.
"""

import torch
from torch import Tensor

from llava_rad.dinov2.cross_entropy import soft_cross_entropy


def dino_loss(
    global_logits: Tensor,
    local_logits: Tensor | None,
    targets: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Mean cross-entropy over all pairs of a student crop and a different teacher crop.

    Args:
        global_logits: student logits of the global crops, ``[crops, batch, prototypes]``.
        local_logits: student logits of the local crops, ``[crops, batch, prototypes]``, if any.
        targets: teacher distributions of the same global crops, ``[crops, batch, prototypes]``.
        temperature: of the student.

    Returns:
        Scalar, float32.
    """
    crops = len(targets)
    every_teacher = targets.sum(dim=0)
    # A global crop is never asked to predict itself.
    other_teachers = every_teacher - targets
    total = soft_cross_entropy(global_logits, other_teachers, temperature).mean(dim=1).sum()
    pairs = crops * (crops - 1)
    if local_logits is not None:
        loss = soft_cross_entropy(local_logits, every_teacher, temperature)
        total = total + loss.mean(dim=1).sum()
        pairs += crops * len(local_logits)
    return total / max(pairs, 1)


def prototype_entropy(targets: Tensor) -> Tensor:
    """Mean entropy of distributions ``[tokens, prototypes]``, in nats; at most log(prototypes)."""
    return -torch.special.xlogy(targets, targets).sum(dim=-1).mean()
