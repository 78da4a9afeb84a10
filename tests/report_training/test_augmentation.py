"""Augmentation of radiographs in report training."""

import numpy as np

from llava_rad.report_training.augmentation import augment


def test_an_image_is_moved_a_little_and_never_mirrored():
    pixels = np.zeros((100, 120), np.uint8)
    pixels[20:30, 90:100] = 200  # a mark in the upper right
    results = [augment(pixels, np.random.default_rng(seed)) for seed in range(40)]
    for result in results:
        assert result.shape == pixels.shape
        assert result.dtype == np.uint8
        rows, columns = (result > 100).nonzero()
        # 5 degrees over 60 pixels, 3 % of the side, 5 % of size: 12 pixels at most.
        assert abs(rows.mean() - 24.5) < 12
        assert abs(columns.mean() - 94.5) < 12
    assert len({result.tobytes() for result in results}) == 40


def test_the_same_draw_gives_the_same_image():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    one, two = (augment(pixels, np.random.default_rng(3)) for _ in range(2))
    assert (one == two).all()
