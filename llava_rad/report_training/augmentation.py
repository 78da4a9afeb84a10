"""Small turns, shifts and changes of size of a radiograph, for training without cached features.

Nothing else is changed: mirroring would move the heart and the side of every finding, and gray
values are made comparable by the preprocessing.
"""

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

#: Largest turn in degrees, shift as a share of each side, and change of size.
DEGREES, SHIFT, SCALE = 5.0, 0.03, 0.05


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A radiograph as it might have been taken, too.

    Args:
        pixels: uint8 [height, width].
        rng: of the draw.

    Returns:
        uint8 [height, width]; what comes in from outside the image is black.
    """
    height, width = pixels.shape
    turn, down, right, scale = rng.uniform(-1, 1, 4)
    changed = transforms.affine(
        torch.from_numpy(pixels)[None],
        angle=turn * DEGREES,
        translate=[round(right * SHIFT * width), round(down * SHIFT * height)],
        scale=1 + scale * SCALE,
        shear=[0.0, 0.0],
        interpolation=transforms.InterpolationMode.BILINEAR,
    )
    return changed[0].numpy()
