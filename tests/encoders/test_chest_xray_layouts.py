"""Public chest X-ray encoders under their true file names and keys, in small.

Each is compared with another implementation: EVA-X and RadJEPA with modules written out here or
timm's own loaders, CheXFound and CXformer with transformers.
"""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from timm.models.eva import checkpoint_filter_fn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from llava_rad.encoders import ENCODERS, Preprocessing, load_encoder
from llava_rad.encoders.dinov2_repo import transformers_to_repo
from llava_rad.encoders.eva_x import EVA_X
from llava_rad.errors import ConfigError, WeightsError


def rotary_table(side, head_dim, reference):
    """EVA-02's buffer, from the definition of its rotary positions."""
    quarter = head_dim // 4
    table = np.zeros((side, side, head_dim))
    for row in range(side):
        for column in range(side):
            for part, place in enumerate((row, column)):
                for i in range(quarter):
                    angle = place / side * reference / 10000 ** (2 * i / (head_dim // 2))
                    start = part * 2 * quarter + 2 * i
                    table[row, column, start : start + 2] = np.cos(angle)
    return torch.tensor(table.reshape(side * side, head_dim), dtype=torch.float32)


class TestEvaX:
    """``eva_x_{tiny,small,base}_patch16_merged520k_mim.pt``."""

    SIDE = 4

    def trunk(self, base, reference):
        """timm's EVA-02 with the arguments of the authors' own ``eva_x.py``, in small."""
        sizes = {
            "img_size": 64,
            "patch_size": 16,
            "embed_dim": 128,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 4 * 2 / 3,
            "swiglu_mlp": True,
            "use_rot_pos_emb": True,
            "ref_feat_shape": (reference, reference),
            "num_classes": 0,
        }
        if base:
            sizes |= {"qkv_fused": False, "scale_mlp": True}
        return timm.create_model("eva02_tiny_patch14_224", **sizes)

    @pytest.fixture(params=["tiny", "base"])
    def case(self, request, randomise):
        """A checkpoint in EVA-02's names, and timm's model filled by timm's own reader."""
        base = request.param == "base"
        trunk = randomise(self.trunk(base, self.SIDE))
        state = {}
        for key, tensor in trunk.state_dict().items():
            name = key.replace("fc_norm", "norm")
            name = name.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias")
            for own, theirs in (
                ("mlp.norm", "mlp.ffn_ln"),
                ("mlp.fc1_g", "mlp.w1"),
                ("mlp.fc1_x", "mlp.w2"),
                ("mlp.fc1.", "mlp.w12."),
                ("mlp.fc2", "mlp.w3"),
            ):
                name = name.replace(own, theirs)
            state[name] = tensor.clone()
        state |= {
            "mask_token": torch.randn(1, 1, 128),
            "lm_head.weight": torch.randn(8, 128),
            "lm_head.bias": torch.randn(8),
            "rope.freqs_cos": rotary_table(self.SIDE, 64, self.SIDE),
            "rope.freqs_sin": torch.zeros(self.SIDE**2, 64),
        }
        twin = self.trunk(base, self.SIDE).eval()
        twin.load_state_dict(checkpoint_filter_fn({"module": state}, twin), strict=False)
        return request.param, state, twin

    @pytest.fixture
    def file(self, case, tmp_path):
        file = tmp_path / f"eva_x_{case[0]}_patch16_merged520k_mim.pt"
        # Such checkpoints hold a loss as a number of numpy beside the weights.
        torch.save({"module": case[1], "epoch": 899, "loss": np.float64(1.5)}, file)
        return file

    def test_tokens_are_timms(self, case, file):
        pixels = torch.randn(2, 3, 64, 64)
        encoder = load_encoder(file)
        found = encoder.encode(pixels)
        twin = case[2]
        with torch.no_grad():
            tokens = twin.fc_norm(twin.forward_features(pixels))
        torch.testing.assert_close(found.patches, tokens[:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.cls, tokens[:, 0], atol=1e-5, rtol=1e-5)
        assert {"mask_token", "lm_head.weight", "rope.freqs_cos"} <= set(
            encoder.load_report.ignored
        )
        assert encoder.preprocessing == EVA_X

    def test_saved_as_a_timm_folder_it_is_the_same(self, file, tmp_path):
        pixels = torch.randn(1, 3, 64, 64)
        encoder = load_encoder(file)
        encoder.save_pretrained(tmp_path / "saved")
        again = load_encoder(tmp_path / "saved")
        assert torch.equal(again.encode(pixels).patches, encoder.encode(pixels).patches)

    def test_the_scale_of_the_positions_is_read_off_the_table(self, case, tmp_path, randomise):
        name, state, _ = case
        file = tmp_path / "eva.pt"
        torch.save({**state, "rope.freqs_cos": rotary_table(self.SIDE, 64, 16)}, file)
        twin = self.trunk(name == "base", 16).eval()
        twin.load_state_dict(checkpoint_filter_fn(dict(state), twin), strict=False)
        pixels = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            tokens = twin.fc_norm(twin.forward_features(pixels))
        found = load_encoder(file).encode(pixels).patches
        torch.testing.assert_close(found, tokens[:, 1:], atol=1e-5, rtol=1e-5)
        torch.save({**state, "rope.freqs_cos": torch.ones(self.SIDE**2, 64)}, file)
        with pytest.raises(WeightsError, match="rotary positions in the file"):
            load_encoder(file)

    def test_every_key_counts(self, case, tmp_path):
        file = tmp_path / "eva.pt"
        torch.save({**case[1], "blocks.0.attn.extra": torch.ones(1)}, file)
        with pytest.raises(WeightsError, match=r"unexpected 1 \(blocks\.0\.attn\.extra\)"):
            load_encoder(file)
        torch.save({k: v for k, v in case[1].items() if k != "blocks.1.norm2.bias"}, file)
        with pytest.raises(WeightsError, match="missing 1"):
            load_encoder(file)

    def test_a_preprocessing_beside_the_file_counts(self, file, preprocessing):
        preprocessing.with_image_size(64).write(file.parent)
        assert load_encoder(file).preprocessing.image_size == 64

    def test_registered_names_name_the_released_files(self, file, case, monkeypatch, tmp_path):
        asked = {}

        def snapshot(hub_id, **options):
            asked.update(hub=hub_id, **options)
            return tmp_path

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        encoder = load_encoder(f"eva-x-{case[0]}")
        assert asked["hub"] == "MapleF/eva_x" and asked["allow_patterns"] == [file.name]
        assert encoder.name == f"eva-x-{case[0]}"
        with pytest.raises(WeightsError, match="hf download MapleF/eva_x eva_x_small"):
            load_encoder("eva-x-small")


def test_eva_x_input_is_the_authors_test_transform():
    from PIL import Image
    from torchvision import transforms

    pixels = np.random.default_rng(0).integers(0, 256, (301, 420), dtype=np.uint8)
    steps = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.49185243,) * 3, (0.28509309,) * 3),
        ]
    )
    expected = steps(Image.fromarray(pixels).convert("RGB"))
    torch.testing.assert_close(EVA_X(pixels), expected, atol=1e-6, rtol=0)


class TestRadJepa:
    """AIDElab-IITBombay/RadJEPA: ``jepa_encoder.pth.tar`` and code beside it."""

    @pytest.fixture
    def trunk(self, randomise):
        from timm.models.vision_transformer import VisionTransformer

        sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 128, "depth": 3, "num_heads": 2}
        return randomise(
            VisionTransformer(**sizes, num_classes=0, class_token=False, global_pool="")
        )

    @pytest.fixture
    def folder(self, trunk, tmp_path):
        folder = tmp_path / "RadJEPA"
        folder.mkdir()
        encoder = {f"module.{key}": tensor for key, tensor in trunk.state_dict().items()}
        content = {
            "encoder": encoder,
            "predictor": {"module.mask_token": torch.ones(1)},
            "opt": {"state": {}, "param_groups": []},
            "epoch": 300,
            "loss": 0.1,
        }
        torch.save(content, folder / "jepa_encoder.pth.tar")
        auto = {"AutoConfig": "modeling_radjepa.C", "AutoModel": "modeling_radjepa.M"}
        (folder / "config.json").write_text(json.dumps({"image_size": 56, "auto_map": auto}))
        (folder / "modeling_radjepa.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        return folder

    @pytest.mark.parametrize("place", ["folder", "file"])
    def test_tokens_are_those_of_the_vision_transformer(
        self, folder, trunk, pixels, preprocessing, tmp_path, place
    ):
        named = folder if place == "folder" else folder / "jepa_encoder.pth.tar"
        encoder = load_encoder(named, preprocessing=preprocessing)
        with torch.no_grad():
            expected = trunk.forward_features(pixels)
        found = encoder.encode(pixels)
        assert torch.equal(found.patches, expected)
        torch.testing.assert_close(found.cls, expected.mean(1))
        assert encoder.num_tokens == 16 and not (tmp_path / "ran").exists()
        encoder.save_pretrained(tmp_path / "saved")
        assert torch.equal(load_encoder(tmp_path / "saved").encode(pixels).patches, expected)

    def test_how_to_prepare_images_is_not_assumed(self, folder, preprocessing, pixels):
        with pytest.raises(WeightsError, match="how to prepare images for these weights"):
            load_encoder(folder)
        preprocessing.write(folder)
        assert load_encoder(folder).preprocessing == preprocessing

    def test_every_key_counts(self, folder, preprocessing):
        file = folder / "jepa_encoder.pth.tar"
        content = torch.load(file, weights_only=True)
        content["encoder"].pop("module.blocks.1.attn.proj.bias")
        torch.save(content, file)
        with pytest.raises(WeightsError, match=r"missing 1 \(blocks\.1\.attn\.proj\.bias\)"):
            load_encoder(folder, preprocessing=preprocessing)


@pytest.fixture
def gated(randomise):
    """ViT with registers and gated layers, as CheXFound's is; patches of 16."""
    config = Dinov2WithRegistersConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=1,
        patch_size=16,
        image_size=64,
        num_register_tokens=4,
        use_swiglu_ffn=True,
    )
    return randomise(Dinov2WithRegistersModel(config))


@pytest.mark.parametrize("layout", ["teacher_checkpoint", "student alone", "both, sharded"])
def test_chexfound(gated, tmp_path, layout):
    state = transformers_to_repo(gated.state_dict())
    # block_chunks: 4 puts one of four blocks into each chunk
    chunked = {
        ".".join(["blocks", key.split(".")[1], *key.split(".")[1:]])
        if key.startswith("blocks.")
        else key: tensor
        for key, tensor in state.items()
    }
    heads = {
        "dino_head.mlp.0.weight": torch.ones(2),
        "ibot_head.last_layer.weight_v": torch.ones(2),
    }
    content = {
        "teacher_checkpoint": {
            "teacher": {**{f"backbone.{k}": t for k, t in chunked.items()}, **heads}
        },
        "student alone": {f"student.backbone.{k}": t for k, t in chunked.items()}
        | {f"student.{k}": t for k, t in heads.items()},
        "both, sharded": {
            "model": {f"teacher.backbone._fsdp_wrapped_module.{k}": t for k, t in chunked.items()}
            | {f"student.backbone.{k}": t + 1 for k, t in chunked.items()},
            "iteration": 7,
        },
    }[layout]
    file = tmp_path / "teacher_checkpoint.pth"
    torch.save(content, file)
    preprocessing = Preprocessing(image_size=64, mean=0.5, std=0.25)
    encoder = load_encoder(file, preprocessing=preprocessing)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = gated(pixels).last_hidden_state
    found = encoder.encode(pixels)
    assert torch.equal(found.patches, expected[:, 5:]) and torch.equal(found.cls, expected[:, 0])
    assert encoder.num_registers == 4


class TestCxformer:
    """m42-health/CXformer-base: transformers' layout, and code for the images."""

    @pytest.fixture
    def folder(self, dinov2_registers, tmp_path):
        folder = tmp_path / "CXformer-base"
        dinov2_registers.save_pretrained(folder)
        processor = {
            "auto_map": {"AutoImageProcessor": "image_processor.CXformerImageProcessor"},
            "image_processor_type": "CXformerImageProcessor",
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "size": {"height": 56, "width": 56},
            "resample": 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        (folder / "image_processor.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        return folder

    def test_its_code_is_neither_run_nor_passed_over(self, folder, tmp_path):
        with pytest.raises(ConfigError, match=r"own code.*which is not run"):
            load_encoder(folder)
        assert not (tmp_path / "ran").exists()

    def test_with_its_preprocessing_said_it_loads(self, folder, dinov2_registers, pixels):
        said = Preprocessing(image_size=56, mean=0.5, std=0.25, geometry="resize", equalize=True)
        encoder = load_encoder(folder, preprocessing=said)
        with torch.no_grad():
            expected = dinov2_registers(pixels).last_hidden_state[:, 5:]
        assert torch.equal(encoder.encode(pixels).patches, expected)
        copied = folder.with_name("copied")
        shutil.copytree(folder, copied)
        said.write(copied)
        assert load_encoder(copied).fingerprint() == encoder.fingerprint()


def test_registered_encoders_say_what_they_are():
    assert ENCODERS["eva-x-base"].file == "eva_x_base_patch16_merged520k_mim.pt"
    assert ENCODERS["dinov3-base"].hub_id == "facebook/dinov3-vitb16-pretrain-lvd1689m"
