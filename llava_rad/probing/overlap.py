"""How well two masks agree: Dice, and the distance between their outlines."""

import numpy as np
from scipy import ndimage

from llava_rad.probing.masks import Mask


def dice(predicted: Mask, true: Mask) -> float:
    """Twice the overlap over the sum of both; 1 for two empty masks."""
    total = predicted.sum() + true.sum()
    return 1.0 if total == 0 else float(2 * (predicted & true).sum() / total)


def surface_distance(predicted: Mask, true: Mask) -> float:
    """Average symmetric surface distance in pixels; NaN where the true mask is empty.

    The mean, over all pixels of both outlines, of the distance to the other outline. A mask's
    outline is its pixels with a neighbour (of four) outside the mask or the image. A structure that
    was missed altogether is as far off as can be: the image's diagonal.
    """
    if not true.any():
        return float("nan")
    if not predicted.any():
        return float(np.hypot(*true.shape))
    first, second = _outline(predicted), _outline(true)
    to_second = ndimage.distance_transform_edt(~second)[first]
    to_first = ndimage.distance_transform_edt(~first)[second]
    return float(np.concatenate([to_second, to_first]).mean())


def _outline(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)
