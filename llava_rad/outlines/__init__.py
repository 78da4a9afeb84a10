"""Outlines of organs and findings: light heads on patch tokens, and what they draw in a radiograph.

:mod:`llava_rad.probing.segmentation` trains and tests them.
"""

from llava_rad.outlines.heads import FILE, HEADS, SCALE, SegmentationHead, load_head
from llava_rad.outlines.prediction import (
    Mask,
    masks_of_image,
    outline,
    predict_masks,
    require_own,
    seeing_whole_images,
)

__all__ = [
    "FILE",
    "HEADS",
    "SCALE",
    "Mask",
    "SegmentationHead",
    "load_head",
    "masks_of_image",
    "outline",
    "predict_masks",
    "require_own",
    "seeing_whole_images",
]
