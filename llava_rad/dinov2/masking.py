"""Block-wise masks over the patch grid (BEiT, arXiv:2106.08254, algorithm 1)."""

import math

import numpy as np

_ASPECT_RATIO = 0.3  # blocks are between this and its inverse, height to width
_SMALLEST_BLOCK = 4  # patches
_TRIES = 10


def block_mask(grid: tuple[int, int], patches: int, rng: np.random.Generator) -> np.ndarray:
    """Cover about ``patches`` patches with random rectangles, never more.

    Args:
        grid: rows and columns.
        patches: how many to cover; the last few are left when no rectangle fits.
        rng: source of randomness.

    Returns:
        Bool array ``[rows, columns]``.
    """
    rows, columns = grid
    mask = np.zeros(grid, dtype=bool)
    largest_block = rows * columns / 2
    aspect_limit = math.log(_ASPECT_RATIO)
    left_over = patches
    while left_over > 0:
        for _ in range(_TRIES):
            most = min(left_over, largest_block)
            area = rng.uniform(min(_SMALLEST_BLOCK, most), most)
            aspect = math.exp(rng.uniform(aspect_limit, -aspect_limit))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if not (0 < height < rows and 0 < width < columns):
                continue
            top = rng.integers(rows - height + 1)
            left = rng.integers(columns - width + 1)
            block = mask[top : top + height, left : left + width]
            new = block.size - int(block.sum())
            if 0 < new <= left_over:
                block[:] = True
                left_over -= new
                break
        else:
            break
    return mask


def mask_sizes(
    images: int,
    patches: int,
    ratio: tuple[float, float],
    probability: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose how many patches to mask in each image of a batch.

    A share ``probability`` of the images is masked, and their ratios are spread evenly over the
    range, so that every batch holds about the same number of masked patches.

    Returns:
        Integer array ``[images]``.
    """
    sizes = np.zeros(images, dtype=np.int64)
    masked = int(images * probability)
    edges = np.linspace(*ratio, masked + 1)
    sizes[:masked] = patches * rng.uniform(edges[:-1], edges[1:])
    return rng.permutation(sizes)
