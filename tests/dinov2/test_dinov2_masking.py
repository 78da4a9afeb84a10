import numpy as np
import pytest

from llava_rad.dinov2.masking import block_mask, mask_sizes


@pytest.mark.parametrize("patches", [0, 1, 8, 30, 60])
def test_mask_covers_about_what_was_asked_and_never_more(patches):
    rng = np.random.default_rng(0)
    covered = [block_mask((16, 16), patches, rng).sum() for _ in range(50)]
    assert max(covered) <= patches
    assert np.mean(covered) >= 0.8 * patches - 1


def test_masks_are_blocks():
    rng = np.random.default_rng(0)
    neighbours = []
    for _ in range(50):
        mask = block_mask((16, 16), 64, rng)
        neighbours.append((mask[:, 1:] & mask[:, :-1]).sum() / mask.sum())
    # A quarter of the patches at random would have a masked right neighbour a quarter of the time.
    assert np.mean(neighbours) > 0.6


def test_mask_is_reproducible():
    first, second = (block_mask((8, 8), 20, np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all()


def test_tiny_grid_ends():
    assert block_mask((2, 2), 2, np.random.default_rng(0)).sum() <= 2


def test_sizes_mask_the_stated_share_of_images_within_the_ratio():
    sizes = mask_sizes(100, 256, (0.1, 0.5), 0.5, np.random.default_rng(0))
    masked = sizes[sizes > 0]
    assert len(masked) == 50
    assert masked.min() >= 25
    assert masked.max() <= 128
    assert masked.mean() == pytest.approx(0.3 * 256, rel=0.03)
    assert mask_sizes(10, 256, (0.1, 0.5), 0.0, np.random.default_rng(0)).sum() == 0
