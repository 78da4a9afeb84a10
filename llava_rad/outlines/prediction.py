"""Outlining structures in one radiograph with a saved head."""

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ModelError
from llava_rad.images import Radiograph
from llava_rad.outlines.heads import SegmentationHead

Mask = NDArray[np.bool_]


def seeing_whole_images(encoder: ImageEncoder) -> ImageEncoder:
    """The same encoder on images padded to a square, with nothing cut off."""
    whole = copy.copy(encoder)
    whole.preprocessing = replace(
        encoder.preprocessing, geometry="pad_square", shorter_side=None, crop_rounding="floor"
    )
    return whole


def predict_masks(
    encoder: ImageEncoder, head: SegmentationHead, radiograph: Radiograph
) -> dict[str, Mask]:
    """Outline structures in one radiograph, with a head that is first known to be the encoder's.

    Args and returns are those of :func:`outline`.

    Raises:
        ModelError: the head belongs to another encoder.
    """
    require_own(encoder, head)
    return outline(encoder, head, radiograph)


@torch.inference_mode()
def outline(
    encoder: ImageEncoder, head: SegmentationHead, radiograph: Radiograph
) -> dict[str, Mask]:
    """Outline structures in one radiograph.

    Args:
        encoder: from :func:`seeing_whole_images`, the one the head was trained on.
        head: from :func:`load_head`.
        radiograph: rendered as the encoder's preprocessing wants it.

    Returns:
        For each structure a mask of the radiograph's size.
    """
    device = next(encoder.parameters()).device
    pixels = encoder.preprocessing(radiograph)[None].to(device)
    patches = encoder.encode(pixels).patches
    grid = encoder.grid(pixels.shape[-2], pixels.shape[-1])
    logits = head.to(device)(patches, grid).cpu()
    height, width = radiograph.pixels.shape
    masks = masks_of_image(logits[0], height, width)
    return dict(zip(head.structures, masks, strict=True))


def require_own(encoder: ImageEncoder, head: SegmentationHead) -> None:
    """Refuse a head of another encoder. Raises ModelError."""
    owner = head.facts.get("encoder", {})
    if owner.get("fingerprint") != encoder.fingerprint():
        raise ModelError(
            f"the head was trained on the tokens of {owner.get('name', 'an unnamed encoder')}, "
            f"not of {encoder.name}",
            remedy="Load the encoder that the head was trained on, at the same input size",
            kind="other_encoder",
        )


def masks_of_image(logits: Tensor, height: int, width: int) -> list[Mask]:
    """Logits of a padded square [structures, rows, columns] as masks of the image inside it."""
    side = max(height, width)
    full = F.interpolate(logits[None].float(), (side, side), mode="bilinear")[0]
    top, left = (side - height) // 2, (side - width) // 2
    inside = full[:, top : top + height, left : left + width] > 0
    return [mask.numpy() for mask in inside]
