import json

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.errors import ModelError, WeightsError

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 60,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SQUARE = {**TOWER, "image_size": 56}
FAMILIES = {
    "clip": (
        CLIPVisionModel,
        CLIPVisionConfig(**SQUARE),
        CLIPModel,
        CLIPConfig(vision_config=SQUARE, text_config=TEXT, projection_dim=16),
    ),
    "siglip": (
        SiglipVisionModel,
        SiglipVisionConfig(**SQUARE),
        SiglipModel,
        SiglipConfig(vision_config=SQUARE, text_config=TEXT),
    ),
    "siglip2": (
        Siglip2VisionModel,
        Siglip2VisionConfig(**TOWER, num_patches=16),
        Siglip2Model,
        Siglip2Config(
            vision_config={**TOWER, "num_patches": 16},
            text_config={**TEXT, "projection_size": 32},
        ),
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tower(family, randomise):
    model_class, config = FAMILIES[family][:2]
    return randomise(model_class(config))


@pytest.fixture
def preprocessing(family):
    if family == "clip":
        return Preprocessing(image_size=56, mean=0.48, std=0.27)
    return Preprocessing(image_size=56, mean=0.5, std=0.5, geometry="resize")


@pytest.fixture
def folder(tower, preprocessing, tmp_path):
    tower.save_pretrained(tmp_path / "tower")
    preprocessing.write(tmp_path / "tower")
    return tmp_path / "tower"


def by_transformers(tower, pixels, **options):
    if not isinstance(tower, Siglip2VisionModel):
        return tower(pixels, interpolate_pos_encoding=True, **options)
    rows, columns = pixels.shape[-2] // 14, pixels.shape[-1] // 14
    patches = torch.stack([convert_image_to_patches(image, 14) for image in pixels])
    return tower(
        patches,
        pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.int32),
        spatial_shapes=torch.tensor([[rows, columns]] * len(patches)),
        **options,
    )


@pytest.mark.parametrize("size", [(56, 56), (28, 84), (70, 70)])
def test_tokens_are_transformers_after_the_final_norm(family, tower, folder, size):
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    output = load_encoder(folder).encode(pixels)
    expected = by_transformers(tower, pixels)
    tokens = expected.last_hidden_state
    if family == "clip":
        tokens = tower.post_layernorm(tokens)[:, 1:]
    assert output.patches.shape == (2, size[0] // 14 * (size[1] // 14), 32)
    torch.testing.assert_close(output.patches, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.cls, expected.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [-1, -2])
def test_layer_gives_a_blocks_output_before_any_norm(family, tower, folder, pixels, layer):
    output = load_encoder(folder, layer=layer).encode(pixels)
    hidden = by_transformers(tower, pixels, output_hidden_states=True).hidden_states[layer]
    expected = hidden[:, 1:] if family == "clip" else hidden
    torch.testing.assert_close(output.patches, expected, atol=1e-5, rtol=1e-5)
    cls = hidden[:, 0] if family == "clip" else hidden.mean(1)
    torch.testing.assert_close(output.cls, cls, atol=1e-5, rtol=1e-5)


def test_tower_inside_a_whole_model_loads_and_its_text_half_is_left_out(
    family, randomise, preprocessing, tmp_path, pixels
):
    model_class, config = FAMILIES[family][2:]
    model = randomise(model_class(config))
    model.save_pretrained(tmp_path)
    preprocessing.write(tmp_path)
    encoder = load_encoder(tmp_path)
    expected = by_transformers(model.vision_model, pixels).pooler_output
    torch.testing.assert_close(encoder.encode(pixels).cls, expected, atol=1e-5, rtol=1e-5)
    report = encoder.load_report
    assert report.unexpected == report.missing == ()
    assert any("text_model" in key for key in report.ignored)
    assert not any("vision" in key for key in report.ignored)


def test_saved_and_loaded_it_is_the_same(folder, tmp_path, pixels):
    encoder = load_encoder(folder, layer=-2)
    encoder.save_pretrained(tmp_path / "again")
    again = load_encoder(tmp_path / "again")
    assert again.fingerprint() == encoder.fingerprint() != load_encoder(folder).fingerprint()
    assert again.layer == -2 and again.preprocessing == encoder.preprocessing
    assert torch.equal(again.encode(pixels).patches, encoder.encode(pixels).patches)


def test_it_is_frozen_and_in_evaluation_mode(folder):
    encoder = load_encoder(folder).train()
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_bfloat16(folder, pixels):
    output = load_encoder(folder, dtype="bfloat16").encode(pixels)
    assert output.patches.dtype == output.cls.dtype == torch.bfloat16
    exact = load_encoder(folder).encode(pixels).patches
    assert (output.patches.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_a_missing_tensor_is_named(tower, preprocessing, tmp_path):
    state = tower.state_dict()
    del state["post_layernorm.weight"]
    tower.save_pretrained(tmp_path, state_dict=state)
    preprocessing.write(tmp_path)
    with pytest.raises(WeightsError, match=r"missing 1 .*post_layernorm\.weight"):
        load_encoder(tmp_path)


def test_pixels_beside_the_last_whole_patch_are_left_out_by_siglip_only(preprocessing, randomise):
    model = randomise(SiglipVisionModel(SiglipVisionConfig(**{**TOWER, "image_size": 62})))
    encoder = SiglipEncoder(model, preprocessing.with_image_size(62))
    pixels = torch.randn(1, 3, 62, 62)
    assert encoder.num_tokens == 16
    assert torch.equal(encoder.encode(pixels).patches, model(pixels).last_hidden_state)
    with pytest.raises(ModelError, match="12 x 56"):
        encoder.grid(12, 56)


def test_a_tower_without_pooling_head_gives_the_mean(preprocessing, pixels, randomise):
    config = SiglipVisionConfig(**SQUARE, vision_use_head=False)
    output = SiglipEncoder(randomise(SiglipVisionModel(config)), preprocessing).encode(pixels)
    assert torch.equal(output.cls, output.patches.mean(1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", -2),
        ("num_attention_heads", 3),
        ("num_hidden_layers", 10**9),
        ("patch_size", 0),
        ("hidden_size", -32),
        ("num_hidden_layers", 2**31),
    ],
)
def test_sizes_that_no_tower_has_are_refused_before_anything_is_made(tmp_path, key, value):
    CLIPVisionModel(CLIPVisionConfig(**SQUARE)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(WeightsError, match=f"{key}|attention heads") as caught:
        load_encoder(tmp_path)
    assert caught.value.kind == "bad_config"
