import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from llava_rad.dinov2.augmentation import (
    Crops,
    MultiCrop,
    apply_appearance,
    crop_box,
    gaussian_blur,
)
from llava_rad.dinov2.config import CropsConfig


def _image(height=120, width=90):
    rows, columns = np.mgrid[:height, :width]
    return ((rows * 2 + columns) % 256).astype(np.uint8)


PLAIN = CropsConfig(
    flip=0, jitter=0, blur=(0, 0, 0), global_scale=(1, 1), aspect_ratio=(1, 1), local_count=3
)


def test_shapes_and_counts():
    global_crops, local_crops = MultiCrop(PLAIN, 56, 28)(_image(), np.random.default_rng(0))
    assert global_crops.pixels.shape == (2, 1, 56, 56)
    assert local_crops.pixels.shape == (3, 1, 28, 28)
    assert global_crops.pixels.dtype == torch.uint8
    assert local_crops.appearance.shape == (3, 3)


def test_whole_square_image_is_only_resized():
    image = _image(80, 80)
    crops, _ = MultiCrop(PLAIN, 40, 14)(image, np.random.default_rng(0))
    expected = np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC))
    assert np.abs(crops.pixels[0, 0].numpy().astype(int) - expected).max() <= 1


def test_flip_mirrors():
    config = CropsConfig(flip=1, jitter=0, blur=(0, 0, 0), global_scale=(1, 1), aspect_ratio=(1, 1))
    image = _image(80, 80)
    flipped, _ = MultiCrop(config, 40, 14)(image, np.random.default_rng(0))
    plain, _ = MultiCrop(PLAIN, 40, 14)(image, np.random.default_rng(0))
    assert torch.equal(flipped.pixels[0], plain.pixels[0].flip(-1))


def test_sixteen_bits_keep_more_than_eight():
    image = (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 3).astype(np.uint16)
    crops, _ = MultiCrop(PLAIN, 64, 14)(image, np.random.default_rng(0))
    assert crops.pixels.dtype == torch.float32
    assert crops.pixels[0].unique().numel() > 1000
    np.testing.assert_allclose(crops.pixels[0, 0].numpy(), image / 65535, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (50, 200), (1000, 20)])
def test_boxes_lie_inside_and_have_the_stated_area_and_shape(height, width):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, box_height, box_width = crop_box((height, width), (0.3, 0.6), (0.75, 1.3), rng)
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert 0.65 <= box_width / box_height <= 1.45
        if height == width:
            assert 0.27 <= box_height * box_width / (height * width) <= 0.63


def test_same_seed_same_crops():
    config = CropsConfig()
    first, second = (
        MultiCrop(config, 56, 28)(_image(), np.random.default_rng(5)) for _ in range(2)
    )
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.pixels, two.pixels)
        assert torch.equal(one.appearance, two.appearance)


def test_appearance_normalises_and_applies_each_crops_own_factors():
    pixels = torch.full((3, 1, 16, 16), 102, dtype=torch.uint8)
    pixels[:, :, :8] = 51  # 0.2 and 0.4, mean 0.3
    appearance = torch.tensor([[1.0, 1.0, 0.0], [1.5, 1.0, 0.0], [1.0, 2.0, 0.0]])
    x = apply_appearance(Crops(pixels, appearance), mean=0.3, std=0.1)
    values = [(x[i, 0, 0, 0].item(), x[i, 0, -1, 0].item()) for i in range(3)]
    assert values[0] == pytest.approx((-1, 1), abs=1e-4)
    assert values[1] == pytest.approx((0, 3), abs=1e-4)  # brighter by half
    assert values[2] == pytest.approx((-2, 2), abs=1e-4)  # twice the distance from the mean


def test_only_crops_with_a_sigma_are_blurred():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    appearance = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.5]])
    x = apply_appearance(Crops(pixels, appearance), mean=0.0, std=1.0)
    torch.testing.assert_close(x[0], pixels[0] / 255)
    assert x[1].std() < 0.5 * x[0].std()


def test_blur_equals_pillows():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 40, 40)
    blurred = gaussian_blur(images, torch.tensor([1.0, 0.6]))
    for image, result, sigma in zip(images, blurred, (1.0, 0.6), strict=True):
        # Pillow approximates a Gaussian by box blurs, on 8 bits.
        picture = Image.fromarray((image[0] * 255).byte().numpy())
        expected = np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))) / 255
        inner = (slice(6, -6), slice(6, -6))
        assert np.abs(result[0].numpy()[inner] - expected[inner]).mean() < 0.02
