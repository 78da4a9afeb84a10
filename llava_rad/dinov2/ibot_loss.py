"""iBOT: the student predicts the teacher's patch tokens where its own were masked.

arXiv:2111.07832. Only masked patches ever reach the head or the loss.
"""

from torch import Tensor

from llava_rad.dinov2.cross_entropy import soft_cross_entropy
from llava_rad.kernels.vit_layer import PatchMasks


def ibot_loss(
    logits: Tensor, targets: Tensor, masks: PatchMasks, temperature: float = 0.1
) -> Tensor:
    """Cross-entropy over masked patches: mean within an image, then over all images.

    Args:
        logits: student logits of the masked patches, ``[masked, prototypes]``, in the order of
            ``masks.places``.
        targets: teacher distributions of the same patches, ``[masked, prototypes]``.
        masks: of each image; one without a mask adds 0.
        temperature: of the student.

    Returns:
        Scalar, float32.
    """
    per_image = masks.chosen.sum(dim=1, keepdim=True).clamp_min(1)
    weights = masks.take((1 / per_image).expand_as(masks.chosen))
    return (soft_cross_entropy(logits, targets, temperature) * weights).sum() / len(masks.chosen)
