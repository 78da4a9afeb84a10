import numpy as np
import pytest
import torch
from helpers.tiny_models import picture, tiny_encoder
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2WithRegistersConfig
from transformers import Dinov2WithRegistersModel as RegistersModel

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.errors import ModelError
from llava_rad.probing import PixelEncoder
from llava_rad.probing.pictures import (
    colour_grid,
    heat,
    heat_colours,
    shrink,
    signed_colours,
    signed_heat,
)
from llava_rad.probing.token_maps import cls_attention, principal_colours

SIZE = 56


def inputs(encoder, count=2):
    return torch.stack([encoder.preprocessing(picture(seed)) for seed in range(count)])


def test_colours_follow_the_largest_variation_in_all_images_together():
    generator = torch.Generator().manual_seed(0)
    kind = torch.tensor([[0.0] * 8 + [1.0] * 8, [1.0] * 16])  # two kinds of tokens
    tokens = 5 * kind[..., None] * torch.ones(6) + 0.05 * torch.randn(2, 16, 6, generator=generator)
    colours, shares = principal_colours(tokens, (4, 4))
    assert shares[0] > 0.95 and shares.sum() <= 1 + 1e-9
    assert colours.shape == (2, 4, 4, 3)
    assert colours.min() >= 0 and colours.max() <= 1
    red = colours[..., 0].reshape(2, 16)
    # Like tokens are alike across images; the two kinds are far apart.
    assert abs(red[0, 8:].mean() - red[1].mean()) < 0.1
    assert abs(red[0, :8].mean() - red[1].mean()) > 0.8
    np.testing.assert_array_equal(colours, principal_colours(tokens, (4, 4))[0])


def dinov2():
    return tiny_encoder(size=SIZE)


def registers():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    config = Dinov2WithRegistersConfig(**sizes, image_size=SIZE, num_register_tokens=3)
    preprocessing = Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Dinov2Encoder(RegistersModel(config), preprocessing)


def clip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    config = CLIPVisionConfig(**sizes, image_size=SIZE, intermediate_size=32)
    preprocessing = Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    return ClipEncoder(CLIPVisionModel(config), preprocessing)


@pytest.mark.parametrize("make", [dinov2, registers, clip])
def test_attention_of_cls_is_a_share_of_one_and_leaves_the_encoder_as_it_was(make):
    encoder = make()
    pixels = inputs(encoder)
    before = encoder.encode(pixels).cls
    attention = cls_attention(encoder, pixels)
    assert attention.shape == (2, 4, 4)
    share = attention.sum(dim=(1, 2))
    assert (attention > 0).all() and (share < 1).all() and (share > 0.5).all()
    torch.testing.assert_close(encoder.encode(pixels).cls, before)


def test_attention_is_the_last_blocks_by_its_own_queries_and_keys():
    encoder = dinov2()
    pixels = inputs(encoder)
    block = encoder.model.encoder.layer[-1]
    seen = {}
    block.norm1.register_forward_hook(lambda module, args, output: seen.update(x=output))
    attention = cls_attention(encoder, pixels)
    query, key = block.attention.q_proj(seen["x"]), block.attention.k_proj(seen["x"])
    query, key = (t.unflatten(2, (2, 12)).transpose(1, 2) for t in (query, key))
    expected = (query[:, :, :1] @ key.transpose(2, 3) / 12**0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    torch.testing.assert_close(attention, expected.reshape(2, 4, 4))


def test_encoders_without_readable_attention_say_so():
    with pytest.raises(ModelError, match="cannot be read from this family"):
        cls_attention(PixelEncoder(SIZE), torch.zeros(1, 3, SIZE, SIZE))


def test_heat_is_strongest_at_the_largest_value_and_its_scale_is_given():
    pixels = np.full((80, 80), 100, np.uint8)
    values = np.zeros((4, 4))
    values[0, 0] = 1.0
    hot = np.asarray(heat(pixels, values, top=1.0)).astype(int)
    assert tuple(hot[70, 70]) == (100, 100, 100)
    assert hot[5, 5].sum() > 500
    fainter = np.asarray(heat(pixels, values, top=4.0)).astype(int)
    assert fainter[5, 5].sum() < hot[5, 5].sum()
    ramp = heat_colours(np.linspace(0, 1, 16), np.zeros((16, 3))).sum(axis=1)
    assert (np.diff(ramp) > 0).all()  # lightness alone tells the order


def test_tiles():
    tile = colour_grid(np.eye(2)[..., None] * np.ones(3), (20, 20))
    assert np.asarray(tile)[:10, :10].min() == 255 and np.asarray(tile)[:10, 10:].max() == 0
    assert shrink(Image.new("L", (300, 100)), 60).size == (60, 20)
    assert shrink(Image.new("L", (30, 10)), 60).size == (30, 10)


def test_signed_values_are_orange_and_blue_and_zero_is_the_picture():
    gray = np.full((12, 12), 100, np.uint8)
    values = np.array([[1.0, 0.0], [0.0, -1.0]])
    picture = np.asarray(signed_heat(gray, values, top=0.5, side=12)).astype(int)
    for_it, against = picture[0, 0], picture[-1, -1]
    assert for_it[0] > for_it[2] and against[2] > against[0]
    assert (picture[0, -1] == 100).all()
    np.testing.assert_allclose(signed_colours(np.zeros(2), np.full((2, 3), 0.3)), 0.3)
