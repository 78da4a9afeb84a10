import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.models import register_model
from timm.models._hub import save_for_hf
from timm.models.vision_transformer import _create_vision_transformer

from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.encoders.open_clip_vit import load_open_clip
from llava_rad.errors import WeightsError

TINY = {"img_size": 56, "patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2}
VARIANTS = {
    "class_token": {},
    "registers": {"reg_tokens": 4},
    "no_class_token": {"class_token": False, "global_pool": "avg"},
    "norm_after_pooling": {"class_token": True, "global_pool": "avg"},
    "attention_pooling": {"class_token": False, "global_pool": "map"},
    "layer_scale": {"init_values": 1e-1},
}


@register_model
def vit_llava_rad_test(pretrained=False, **options):
    """A timm ViT of a few thousand parameters."""
    return _create_vision_transformer("vit_llava_rad_test", pretrained, **{**TINY, **options})


@register_model
def vit_fixture_patch14_56_layerscale(pretrained=False, **options):
    """The architecture of the reference checkpoint with LayerScale."""
    sizes = {**TINY, "embed_dim": 64, "depth": 4, "num_heads": 4, "init_values": 1e-5}
    name = "vit_fixture_patch14_56_layerscale"
    return _create_vision_transformer(name, pretrained, **{**sizes, **options})


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def trunk(variant, randomise):
    return randomise(timm.create_model("vit_llava_rad_test", num_classes=0, **variant))


@pytest.fixture
def folder(trunk, variant, tmp_path):
    """As timm itself writes a model for the hub."""
    config = {
        "architecture": "vit_llava_rad_test",
        "num_classes": 0,
        "num_features": 32,
        "model_args": variant,
        "pretrained_cfg": {
            "input_size": [3, 56, 56],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(trunk.state_dict(), folder / "model.safetensors")
    return folder


def pooled_by_timm(trunk, tokens):
    return trunk.forward_head(tokens, pre_logits=True)


def test_tokens_are_timms_after_the_final_norm(trunk, folder, pixels):
    output = load_encoder(folder).encode(pixels)
    tokens = trunk.forward_features(pixels)
    pooled = pooled_by_timm(trunk, tokens)
    tokens = trunk.fc_norm(tokens)  # the final norm where it stands behind the pooling
    assert output.patches.shape == (2, 16, 32)
    torch.testing.assert_close(output.patches, tokens[:, trunk.num_prefix_tokens :])
    expected = tokens[:, 0] if trunk.cls_token is not None else pooled
    torch.testing.assert_close(output.cls, expected)


@pytest.mark.parametrize("layer", [-1, -2])
def test_layer_gives_a_blocks_output_before_any_norm(trunk, folder, pixels, layer):
    output = load_encoder(folder, layer=layer).encode(pixels)
    hidden = []
    trunk.blocks[layer].register_forward_hook(lambda *call: hidden.append(call[2]))
    trunk.forward_features(pixels)
    patches = hidden[0][:, trunk.num_prefix_tokens :]
    torch.testing.assert_close(output.patches, patches)
    expected = hidden[0][:, 0] if trunk.cls_token is not None else patches.mean(1)
    torch.testing.assert_close(output.cls, expected)


def test_other_sizes_equal_timms_own_interpolation(trunk, variant, folder):
    pixels = torch.randn(1, 3, 84, 42, generator=torch.Generator().manual_seed(4))
    dynamic = timm.create_model(
        "vit_llava_rad_test", num_classes=0, dynamic_img_size=True, **variant
    ).eval()
    dynamic.load_state_dict(trunk.state_dict())
    expected = dynamic.fc_norm(dynamic.forward_features(pixels))[:, trunk.num_prefix_tokens :]
    torch.testing.assert_close(load_encoder(folder).encode(pixels).patches, expected)


def test_preprocessing_is_timms_evaluation_transform(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (91, 75), dtype=np.uint8)
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    expected = transform(Image.fromarray(pixels).convert("RGB"))
    torch.testing.assert_close(
        load_encoder(folder).preprocessing(pixels), expected, atol=1e-6, rtol=0
    )


def test_saved_and_loaded_it_is_the_same_and_plain_timm_reads_it(folder, tmp_path, pixels):
    encoder = load_encoder(folder, layer=-2)
    encoder.save_pretrained(tmp_path / "again")
    again = load_encoder(tmp_path / "again")
    assert again.fingerprint() == encoder.fingerprint()
    assert again.layer == -2 and again.preprocessing == encoder.preprocessing
    assert torch.equal(again.encode(pixels).patches, encoder.encode(pixels).patches)
    assert not any(parameter.requires_grad for parameter in again.parameters())

    plain = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    features = plain.forward_features(pixels)
    torch.testing.assert_close(features, encoder.trunk.forward_features(pixels))


def test_folder_written_by_timm_loads_without_its_classifier(tmp_path, randomise, pixels):
    model = randomise(timm.create_model("test_vit", num_classes=5))
    save_for_hf(model, tmp_path, safe_serialization=True)
    encoder = load_encoder(tmp_path)
    assert set(encoder.load_report.ignored) == {"head.weight", "head.bias"}
    sized = torch.randn(1, 3, encoder.image_size, encoder.image_size)
    torch.testing.assert_close(
        encoder.encode(sized).patches,
        model.forward_features(sized)[:, model.num_prefix_tokens :],
    )


@pytest.mark.parametrize(
    ("architecture", "named"), [("vit_of_the_future", "Update timm"), ("resnet10t", "not a vision")]
)
def test_what_is_no_timm_vit_is_refused(tmp_path, architecture, named):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=named):
        load_encoder(tmp_path)


def test_a_folder_that_does_not_say_how_images_are_prepared_is_refused(tmp_path, randomise):
    model = randomise(timm.create_model("vit_llava_rad_test", num_classes=0))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_llava_rad_test"}))
    with pytest.raises(WeightsError, match="no weights"):
        load_encoder(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        load_encoder(tmp_path)
    given = Preprocessing(image_size=56, mean=0.5, std=0.5)
    assert load_encoder(tmp_path, preprocessing=given).preprocessing == given


TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TIMM_TOWER = {
    "timm_model_name": "vit_llava_rad_test",
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 56,
}
OWN_TOWER = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 14, "image_size": 56}
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


class TestOpenClip:
    """Models made and saved by open_clip itself."""

    @pytest.fixture
    def open_clip(self):
        return pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

    def write(self, folder, model, model_cfg):
        folder.mkdir(exist_ok=True)
        config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
        return folder

    def test_timm_tower(self, open_clip, tmp_path, randomise, pixels):
        config = {"embed_dim": 16, "vision_cfg": TIMM_TOWER, "text_cfg": TEXT}
        model = randomise(open_clip.model.CustomTextCLIP(**config))
        folder = self.write(tmp_path / "hub", model, config)
        encoder = load_encoder(folder)
        tokens = model.visual.trunk.forward_features(pixels)
        torch.testing.assert_close(encoder.encode(pixels).cls, tokens[:, 0])
        torch.testing.assert_close(encoder.encode(pixels).patches, tokens[:, 1:])
        assert encoder.load_report.unexpected == ()
        assert "visual.head.proj.weight" in encoder.load_report.ignored
        projected = model.visual.head(encoder.encode(pixels).patches)
        assert projected.shape == (2, 16, 16)

    @pytest.mark.parametrize("quick_gelu", [False, True])
    @pytest.mark.parametrize("custom_text", [False, True])
    def test_own_tower(self, open_clip, tmp_path, randomise, pixels, quick_gelu, custom_text):
        config = {"embed_dim": 16, "vision_cfg": OWN_TOWER, "text_cfg": TEXT}
        model_class = open_clip.model.CustomTextCLIP if custom_text else open_clip.model.CLIP
        model = randomise(model_class(**config, quick_gelu=quick_gelu))
        folder = self.write(tmp_path / "hub", model, {**config, "quick_gelu": quick_gelu})
        encoder = load_encoder(folder)
        model.visual.output_tokens = True
        pooled, _ = model.visual(pixels)
        output = encoder.encode(pixels)
        torch.testing.assert_close(output.cls @ model.visual.proj, pooled, atol=1e-5, rtol=1e-5)
        assert output.patches.shape == (2, 16, 32)
        encoder.save_pretrained(tmp_path / "again")
        again = load_encoder(tmp_path / "again")
        assert again.fingerprint() == encoder.fingerprint()
        assert again.preprocessing == encoder.preprocessing

    def test_preprocessing_is_open_clips(self, open_clip, tmp_path, randomise):
        config = {"embed_dim": 16, "vision_cfg": OWN_TOWER, "text_cfg": TEXT}
        model = randomise(open_clip.model.CLIP(**config))
        ours = load_encoder(self.write(tmp_path / "hub", model, config)).preprocessing
        theirs = open_clip.image_transform(56, is_train=False, **PREPROCESS)
        for size in [(91, 75), (60, 97), (56, 131), (140, 89)]:
            pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
            torch.testing.assert_close(
                ours(pixels), theirs(Image.fromarray(pixels)), atol=1e-6, rtol=0
            )

    @pytest.mark.parametrize(
        ("vision", "named"),
        [({"layers": [3, 4, 6, 3]}, "layers"), ({"attentional_pool": True}, "attentional_pool")],
    )
    def test_towers_unlike_clips_are_refused(self, tmp_path, vision, named):
        config = {"embed_dim": 16, "vision_cfg": {**OWN_TOWER, **vision}}
        (tmp_path / "m.json").write_text(json.dumps(config))
        torch.save({"visual.proj": torch.zeros(1)}, tmp_path / "m.pt")
        with pytest.raises(WeightsError, match=named):
            load_open_clip(tmp_path / "m.json", tmp_path / "m.pt")

    def test_a_training_checkpoint_is_unwrapped(self, tmp_path, randomise, pixels):
        trunk = randomise(timm.create_model("vit_llava_rad_test", num_classes=0))
        state = {f"module.visual.trunk.{k}": v.half() for k, v in trunk.state_dict().items()}
        state["module.logit_scale"] = torch.ones([])
        (tmp_path / "m.json").write_text(json.dumps({"vision_cfg": TIMM_TOWER}))
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "m.pt")
        encoder = load_open_clip(tmp_path / "m.json", tmp_path / "m.pt")
        trunk.half().float()
        expected = trunk.forward_features(pixels)[:, 1:]
        torch.testing.assert_close(encoder.encode(pixels).patches, expected)
        assert encoder.load_report.ignored == ("logit_scale",)

    def test_incomplete_or_foreign_weights_are_refused(self, tmp_path, randomise):
        trunk = randomise(timm.create_model("vit_llava_rad_test", num_classes=0))
        state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
        (tmp_path / "m.json").write_text(json.dumps({"vision_cfg": TIMM_TOWER}))
        torch.save({k: v for k, v in state.items() if "norm.bias" not in k}, tmp_path / "a.pt")
        with pytest.raises(WeightsError, match=r"missing 1 .*norm\.bias"):
            load_open_clip(tmp_path / "m.json", tmp_path / "a.pt")
        torch.save({**state, "audio.proj": torch.zeros(1)}, tmp_path / "b.pt")
        with pytest.raises(WeightsError, match=r"unexpected 1 .*audio\.proj"):
            load_open_clip(tmp_path / "m.json", tmp_path / "b.pt")
        with pytest.raises(WeightsError, match="vision_cfg"):
            (tmp_path / "n.json").write_text("{}")
            load_open_clip(tmp_path / "n.json", tmp_path / "a.pt")

    def test_images_prepared_another_way_are_refused(self, tmp_path):
        config = {"model_cfg": {"vision_cfg": TIMM_TOWER},
                  "preprocess_cfg": {"resize_mode": "longest"}}  # fmt: skip
        (tmp_path / "m.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="longest"):
            load_open_clip(tmp_path / "m.json", tmp_path / "m.pt")


class TestLlavaRad:
    """Outputs of LLaVA-Rad's own code on its checkpoint layout."""

    @pytest.fixture
    def folder(self, shared_parity):
        return shared_parity / "llava_rad_checkpoint"

    @pytest.fixture
    def encoder(self, folder):
        tower = folder / "vision_tower"
        return load_open_clip(
            tower / "biomedclip_cxr_tiny.json", tower / "biomedclip_cxr_tiny_checkpoint.pt",
            layer=-2,
        )  # fmt: skip

    @pytest.mark.parametrize("number", [0, 1])
    def test_pixel_values_and_features(self, folder, encoder, number):
        expected = load_file(folder / "expected.safetensors")
        pixels = encoder.preprocessing(
            np.array(Image.open(folder / f"image_{number}.png").convert("L"))
        )
        torch.testing.assert_close(
            pixels, expected[f"input_{number}.pixel_values"], atol=1e-5, rtol=0
        )
        features = encoder.encode(pixels[None]).patches[0]
        torch.testing.assert_close(
            features, expected[f"input_{number}.vision_features"], atol=2e-4, rtol=1e-4
        )

    def test_pooler_and_text_tower_are_left_out(self, encoder):
        ignored = encoder.load_report.ignored
        assert "text.transformer.pooler.dense.weight" in ignored
        assert all(key.startswith(("text.", "visual.head.", "logit_scale")) for key in ignored)

    def test_saved_tower_gives_the_same_features(self, folder, encoder, tmp_path):
        encoder.save_pretrained(tmp_path)
        again = load_encoder(tmp_path)
        assert again.layer == -2 and again.fingerprint() == encoder.fingerprint()
        pixels = load_file(folder / "expected.safetensors")["input_0.pixel_values"]
        assert torch.equal(again.encode(pixels[None]).patches, encoder.encode(pixels[None]).patches)

    def test_wrapped_checkpoint_of_a_layer_scale_tower(self, folder):
        tower = folder / "extra" / "layerscale_tower"
        expected = load_file(tower / "expected.safetensors")
        encoder = load_open_clip(tower / "tower.json", tower / "tower_checkpoint.pt", layer=-2)
        torch.testing.assert_close(
            encoder.encode(expected["pixel_values"]).patches,
            expected["vision_features"],
            atol=2e-4,
            rtol=1e-4,
        )
