"""DINOv3: transformers' folders against transformers, repository files against timm."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.errors import WeightsError

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_register_tokens": 4,
    "image_size": 64,
}
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "do_center_crop": None,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "DINOv3ViTImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 64, "width": 64},
}


@pytest.fixture
def square():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[False, True], ids=["mlp", "gated"])
def model(request, randomise):
    config = DINOv3ViTConfig(**SIZES, use_gated_mlp=request.param)
    return randomise(DINOv3ViTModel(config))


@pytest.fixture
def folder(model, tmp_path):
    """As a published one: its keys have no 'model.' in front of the layers."""
    model.save_pretrained(tmp_path / "dinov3")
    (tmp_path / "dinov3" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    names = set(load_file(tmp_path / "dinov3" / "model.safetensors"))
    assert {"embeddings.register_tokens", "layer.0.attention.q_proj.bias", "norm.weight"} <= names
    return tmp_path / "dinov3"


def test_a_published_folder_gives_the_tokens_of_transformers(folder, model, square):
    encoder = load_encoder(folder)
    with torch.no_grad():
        expected = model(square, output_hidden_states=True)
    found = encoder.encode(square)
    assert torch.equal(found.cls, expected.pooler_output)
    assert torch.equal(found.patches, expected.last_hidden_state[:, 5:])
    assert (encoder.num_tokens, encoder.patch_size, encoder.dim) == (16, 16, 64)
    inner = load_encoder(folder, layer=-2).encode(square)
    assert torch.equal(inner.patches, expected.hidden_states[2][:, 5:])
    assert not load_encoder(folder).load_report.ignored


def test_other_sizes_have_positions_of_their_own(folder, model):
    wide = torch.randn(1, 3, 48, 96)
    with torch.no_grad():
        expected = model(wide).last_hidden_state[:, 5:]
    assert torch.equal(load_encoder(folder).encode(wide).patches, expected)


@pytest.mark.parametrize("layer", [None, -2])
def test_saved_and_loaded_again_it_is_the_same(folder, tmp_path, square, layer):
    encoder = load_encoder(folder, layer=layer)
    encoder.save_pretrained(tmp_path / "again")
    again = load_encoder(tmp_path / "again")
    assert again.fingerprint() == encoder.fingerprint()
    assert torch.equal(again.encode(square).patches, encoder.encode(square).patches)
    plain = DINOv3ViTModel.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert torch.equal(plain(square).pooler_output, load_encoder(folder).encode(square).cls)


def test_a_missing_tensor_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["layer.1.mlp.down_proj.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing 1 .*layer\.1\.mlp\.down_proj\.bias"):
        load_encoder(folder)


def test_convolutional_dinov3_is_named_as_not_supported(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov3_convnext"}))
    with pytest.raises(WeightsError, match="'dinov3_convnext' is not a supported"):
        load_encoder(tmp_path)


class TestRepositoryFiles:
    """``dinov3_vits16_pretrain_lvd1689m.pth`` and training checkpoints, in small."""

    @pytest.fixture
    def trunk(self, randomise):
        sizes = {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 2, "num_classes": 0}
        return randomise(timm.create_model("vit_small_patch16_dinov3_qkvb", **sizes))

    @pytest.fixture
    def state(self, trunk):
        """The trunk's weights as the repository names them, its own leftovers among them."""
        renamed = {"rope_embed.periods": (100 ** (torch.arange(8) / 8)).bfloat16()}
        renamed["mask_token"] = torch.randn(1, 64)
        weights = trunk.state_dict()
        for key, tensor in weights.items():
            name = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            name = name.replace("reg_token", "storage_tokens").replace("fc_norm", "norm")
            if not name.endswith(("q_bias", "v_bias")):
                renamed[name] = tensor
        for block in range(3):
            prefix = f"blocks.{block}.attn"
            query, value = weights[f"{prefix}.q_bias"], weights[f"{prefix}.v_bias"]
            mask = torch.cat([torch.ones(64), torch.zeros(64), torch.ones(64)])
            renamed[f"{prefix}.qkv.bias"] = torch.cat([query, torch.randn(64), value])
            renamed[f"{prefix}.qkv.bias_mask"] = mask
        return renamed

    @pytest.fixture
    def load(self, tmp_path):
        def load(state):
            torch.save(state, tmp_path / "weights.pth")
            preprocessing = Preprocessing.from_dict(PROCESSOR)
            return load_encoder(tmp_path / "weights.pth", preprocessing=preprocessing)

        return load

    def test_a_released_file_gives_the_tokens_of_timm(self, load, state, trunk, square):
        found = load(state).encode(square)
        with torch.no_grad():
            tokens = trunk.forward_features(square)
        torch.testing.assert_close(found.patches, tokens[:, 5:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.cls, tokens[:, 0], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("side", ["teacher", "student"])
    def test_a_training_checkpoint(self, load, state, trunk, square, side):
        heads = {f"{side}.dino_head.mlp.0.weight": torch.ones(2)}
        inside = {f"{side}.backbone.{key}": tensor for key, tensor in state.items()}
        encoder = load({"model": {**inside, **heads}, "iteration": 3})
        with torch.no_grad():
            tokens = trunk.forward_features(square)
        torch.testing.assert_close(encoder.encode(square).patches, tokens[:, 5:], atol=1e-5, rtol=0)
        assert "dino_head.mlp.0.weight" in encoder.load_report.ignored

    def test_it_is_saved_as_a_transformers_folder(self, load, state, tmp_path, square):
        encoder = load(state)
        encoder.save_pretrained(tmp_path / "saved")
        again = load_encoder(tmp_path / "saved")
        assert torch.equal(again.encode(square).patches, encoder.encode(square).patches)

    def test_what_would_be_another_model_is_refused(self, load, state):
        other = {**state, "rope_embed.periods": 1000 ** (torch.arange(8) / 8)}
        with pytest.raises(WeightsError, match="periods of the rotary positions"):
            load(other)
        unmasked = {k: t for k, t in state.items() if not k.endswith("bias_mask")}
        with pytest.raises(WeightsError, match="a bias of the keys"):
            load(unmasked)
        with pytest.raises(WeightsError, match=r"unexpected 1 \(blocks\.0\.extra\.weight\)"):
            load({**state, "blocks.0.extra.weight": torch.ones(1)})
        short = {k: t for k, t in state.items() if k != "blocks.2.norm2.weight"}
        with pytest.raises(WeightsError, match="missing 1"):
            load(short)
