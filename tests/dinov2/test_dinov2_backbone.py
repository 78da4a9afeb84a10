"""Backbones of pretraining: new, from folders, and from files of the original repository."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersModel

from llava_rad.dinov2.backbone import ARCHITECTURES, build_backbone, tokens
from llava_rad.dinov2.config import BackboneConfig, HeadConfig
from llava_rad.dinov2.export import export_encoder, export_repository_checkpoint
from llava_rad.dinov2.student_teacher import Network
from llava_rad.encoders import RAD_DINO, load_encoder
from llava_rad.encoders.dinov2_repo import load_repo_encoder, transformers_to_repo
from llava_rad.errors import ConfigError
from llava_rad.kernels.vit_layer import PatchMasks
from llava_rad.runs.state import whole_tensors

TINY_HEAD = HeadConfig(prototypes=8, hidden_dim=8, bottleneck_dim=4)


def _tiny(image_size=56, **changes):
    settings = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(**settings, image_size=image_size, **changes)).eval()


def _everything(backbone, images, masks=None):
    """CLS, and all patch tokens, ``[batch, patches, dim]``."""
    batch, _, height, width = images.shape
    wanted = PatchMasks.of(torch.ones(batch, (height // 14) * (width // 14), dtype=torch.bool))
    output = tokens(backbone, images, masks, wanted)
    return output._replace(patches=output.patches.unflatten(0, (batch, -1)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("registers", [0, 4])
def test_new_backbones_have_the_stated_sizes(architecture, registers):
    # Parameters of the published ViT-S, B and L at patch 14 and 518 pixels, without registers.
    published = {
        "vit_small": 22_056_576,
        "vit_base": 86_580_480,
        "vit_large": 304_368_640,
    }
    with torch.device("meta"):
        backbone = build_backbone(
            BackboneConfig(architecture=architecture, image_size=518, registers=registers)
        )
    assert isinstance(backbone, Dinov2WithRegistersModel if registers else Dinov2Model)
    width = ARCHITECTURES[architecture][0]
    count = sum(p.numel() for p in backbone.parameters()) - width * registers
    if architecture in published:
        assert count == published[architecture]


def test_registers_are_no_patches():
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(architecture="vit_tiny", image_size=28, registers=4)
    ).eval()
    images = torch.randn(2, 1, 28, 42)
    output = _everything(backbone, images)
    assert output.patches.shape == (2, 2 * 3, 192)
    with torch.no_grad():
        everything = backbone(images.expand(-1, 3, -1, -1)).last_hidden_state
    assert everything.shape[1] == 1 + 4 + 6
    torch.testing.assert_close(output.patches, everything[:, 5:])
    torch.testing.assert_close(output.cls, everything[:, 0])
    wanted = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    some = tokens(backbone, images, None, PatchMasks.of(wanted))
    torch.testing.assert_close(some.patches, output.patches[wanted])
    torch.testing.assert_close(some.cls, output.cls)


def test_glorot_sincos_start_lets_attention_see_where_a_patch_lies():
    image = torch.randn(1, 1, 84, 84, generator=torch.Generator().manual_seed(0))
    # The same patches in another place: how much of the CLS token depends on where they lie?
    moved = image.roll(42, dims=-1)
    changes = {}
    for initialisation in ("normal", "glorot_sincos"):
        torch.manual_seed(0)
        backbone = build_backbone(
            BackboneConfig(
                architecture="vit_tiny",
                image_size=84,
                layer_scale=1.0,
                initialisation=initialisation,
            )
        ).eval()
        with torch.no_grad():
            first, second = (tokens(backbone, x, None, None).cls for x in (image, moved))
        changes[initialisation] = float((first - second).norm() / first.norm())
    assert changes["glorot_sincos"] > 10 * changes["normal"]
    for module in backbone.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            # Glorot and Bengio 2010, equation 16: variance 2 / (fan in + fan out).
            weight = module.weight.detach().flatten(1)
            expected = (2 / sum(weight.shape)) ** 0.5
            assert float(weight.std()) == pytest.approx(expected, rel=0.02)
            assert not module.bias.any()
    # A sine and a cosine of each of 48 frequencies, in two directions.
    table = backbone.embeddings.position_embeddings[0]
    assert not table[0].any()
    torch.testing.assert_close(table[1:].square().sum(dim=1), torch.full((36,), 96.0))
    assert len(torch.unique(table.detach().round(decimals=4), dim=0)) == 37
    assert backbone.embeddings.position_embeddings.requires_grad


class TestStochasticDepth:
    """The rate of the configuration counts, whatever the encoder was saved with."""

    @pytest.mark.parametrize("rate", [0.0, 0.5])
    def test_of_a_loaded_encoder(self, tmp_path, rate):
        _tiny(drop_path_rate=0.3, layerscale_value=1.0).save_pretrained(tmp_path)
        RAD_DINO.with_image_size(56).write(tmp_path)
        backbone = build_backbone(BackboneConfig(encoder=str(tmp_path), drop_path=rate))
        assert all(p.requires_grad for p in backbone.parameters())
        images = torch.randn(1, 1, 56, 56).expand(64, -1, -1, -1)
        torch.manual_seed(0)
        outputs = tokens(backbone.train(), images, None, None).cls
        # Equal images differ exactly where layers were dropped; 2 x 2 residuals, each kept or not.
        kinds = len({tuple(row) for row in outputs.detach().mul(1e3).round().tolist()})
        assert kinds == 1 if rate == 0 else 8 < kinds <= 16

    def test_is_off_in_evaluation(self, tmp_path):
        reference = _tiny()
        reference.save_pretrained(tmp_path)
        RAD_DINO.with_image_size(56).write(tmp_path)
        backbone = build_backbone(BackboneConfig(encoder=str(tmp_path), drop_path=0.9)).eval()
        images = torch.randn(2, 1, 56, 56)
        expected = reference(images.expand(-1, 3, -1, -1)).last_hidden_state
        torch.testing.assert_close(tokens(backbone, images, None, None).cls, expected[:, 0])


def test_an_encoder_of_another_kind_is_refused(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    ).save_pretrained(tmp_path)
    RAD_DINO.with_image_size(224).write(tmp_path)
    with pytest.raises(ConfigError, match="only DINOv2"):
        build_backbone(BackboneConfig(encoder=str(tmp_path)))


def test_an_encoder_without_mask_token_is_refused(tmp_path):
    _tiny(use_mask_token=False).save_pretrained(tmp_path)
    RAD_DINO.with_image_size(56).write(tmp_path)
    with pytest.raises(ConfigError, match="no mask token"):
        build_backbone(BackboneConfig(encoder=str(tmp_path)))


class TestRepositoryFiles:
    """Case C78: teachers of the original repository's training runs load whole."""

    @staticmethod
    def _teacher(state):
        whole = {f"teacher.backbone.{k.replace('blocks.', 'blocks.0.')}": v for k, v in state}
        whole |= {"teacher.dino_head.mlp.0.weight": torch.zeros(2)}
        return {"model": whole}

    @pytest.mark.parametrize("layout", ["plain", "wrapped", "sharded training checkpoint"])
    def test_load_with_equal_features(self, tmp_path, layout):
        reference = _tiny()
        state = transformers_to_repo(reference.state_dict())
        if layout == "wrapped":
            state = {"teacher": {f"backbone.{key}": value for key, value in state.items()}}
        elif layout == "sharded training checkpoint":
            state = self._teacher(state.items())
        torch.save(state, tmp_path / "teacher_checkpoint.pth")
        encoder = str(tmp_path / "teacher_checkpoint.pth")
        backbone = build_backbone(BackboneConfig(encoder=encoder))
        images = torch.randn(2, 1, 56, 56)
        expected = reference(images.expand(-1, 3, -1, -1)).last_hidden_state
        output = _everything(backbone, images)
        torch.testing.assert_close(output.cls, expected[:, 0])
        torch.testing.assert_close(output.patches, expected[:, 1:])

    def test_a_whole_teacher_goes_there_and_back(self, tmp_path):
        torch.manual_seed(0)
        network = Network(_tiny(), TINY_HEAD, TINY_HEAD)
        path = tmp_path / "teacher_checkpoint.pth"
        export_repository_checkpoint(whole_tensors(network.state_dict().items(), keep=True), path)
        stored = torch.load(path, weights_only=True)["teacher"]
        assert stored["backbone.blocks.1.attn.qkv.weight"].shape == (192, 64)
        assert "backbone.blocks.0.ls1.gamma" in stored
        assert torch.equal(stored["dino_head.mlp.0.weight"], network.dino_head.mlp[0].weight)
        assert torch.equal(
            stored["ibot_head.last_layer.weight_v"], network.ibot_head.last_layer.weight_v
        )
        again = build_backbone(BackboneConfig(encoder=str(path))).state_dict()
        assert again.keys() == network.backbone.state_dict().keys()
        for name, tensor in network.backbone.state_dict().items():
            assert torch.equal(again[name], tensor), name


class TestPositionTables:
    """Case C76: tables are resized to the exact grid, and untouched at their own size."""

    @pytest.mark.parametrize(
        ("height", "width", "grid"),
        [
            (518, 518, (37, 37)),
            (224, 224, (16, 16)),
            (98, 98, (7, 7)),
            (546, 546, (39, 39)),
            (602, 602, (43, 43)),
            (1092, 1092, (78, 78)),
            (518, 392, (37, 28)),
        ],
    )
    def test_of_a_loaded_encoder(self, tmp_path, height, width, grid):
        # Without layers and patches, what comes out is the normalised position table.
        reference = _tiny(image_size=518, layerscale_value=0.0)
        torch.nn.init.zeros_(reference.embeddings.patch_embeddings.projection.weight)
        reference.save_pretrained(tmp_path)
        RAD_DINO.write(tmp_path)
        backbone = build_backbone(BackboneConfig(encoder=str(tmp_path)))
        with torch.no_grad():
            output = _everything(backbone, torch.zeros(1, 1, height, width)).patches
            table = reference.embeddings.position_embeddings[:, 1:].unflatten(1, (37, 37))
            if grid != (37, 37):
                table = torch.nn.functional.interpolate(
                    table.permute(0, 3, 1, 2), size=grid, mode="bicubic"
                ).permute(0, 2, 3, 1)
            expected = reference.layernorm(table.flatten(1, 2))
        assert output.shape[1] == grid[0] * grid[1]
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("registers", [0, 4])
class TestOriginalRepository:
    """Outputs of facebookresearch/dinov2 itself, through the backbone of pretraining."""

    @pytest.fixture
    def reference(self, shared_parity, registers):
        return load_file(shared_parity / f"dinov2_vit_reg{registers}.safetensors")

    @pytest.fixture
    def network(self, reference, tmp_path):
        state = {k.removeprefix("model."): v for k, v in reference.items() if k.startswith("model")}
        save_file(state, tmp_path / "vit.safetensors")
        # Its 48 dimensions do not tell the number of heads, so it goes through a folder.
        encoder = load_repo_encoder(
            tmp_path / "vit.safetensors", preprocessing=RAD_DINO, num_heads=3
        )
        encoder.save_pretrained(tmp_path / "folder")
        backbone = build_backbone(BackboneConfig(encoder=str(tmp_path / "folder")))
        return Network(backbone, TINY_HEAD, None).eval()

    @pytest.mark.parametrize(
        ("size", "tolerance"),
        [("518x518", 2e-3), ("224x224", 1e-5), ("98x98", 1e-5), ("224x280", 1e-5)],
    )
    @torch.no_grad()
    def test_equal_tokens(self, network, reference, registers, size, tolerance):
        images = reference[f"io.{size}.x"].float()
        # The reference's images are in colour; pretraining's are gray, so they are not expanded.
        output = _everything(lambda _, **kw: network.backbone(images, **kw), images)
        expected = reference[f"io.{size}.patch"].float()
        torch.testing.assert_close(
            output.cls, reference[f"io.{size}.cls"].float(), atol=tolerance, rtol=0
        )
        torch.testing.assert_close(output.patches, expected, atol=tolerance, rtol=0)

    @torch.no_grad()
    def test_equal_tokens_with_masks(self, network, reference, registers):
        images, masks = reference["io.masked.x"], reference["io.masked.masks"]
        output = _everything(lambda _, **kw: network.backbone(images, **kw), images, masks)
        torch.testing.assert_close(output.cls, reference["io.masked.cls"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.patches, reference["io.masked.patch"], atol=1e-5, rtol=0)

    def test_exports_give_the_original_back(self, network, reference, tmp_path):
        teacher = whole_tensors(network.state_dict().items(), keep=True)
        export_repository_checkpoint(teacher, tmp_path / "teacher_checkpoint.pth")
        stored = torch.load(tmp_path / "teacher_checkpoint.pth", weights_only=True)["teacher"]
        original = {k.removeprefix("model."): v for k, v in reference.items() if k[:5] == "model"}
        backbone = {k[9:]: v for k, v in stored.items() if k.startswith("backbone.")}
        assert backbone.keys() == original.keys()
        assert all(torch.equal(backbone[key], original[key]) for key in original)

        export_encoder(network.backbone.config, teacher, tmp_path / "encoder", RAD_DINO, {})
        encoder = load_encoder(tmp_path / "encoder")
        output = encoder.encode(reference["io.98x98.x"].float())
        expected = reference["io.98x98.patch"].float()
        torch.testing.assert_close(output.patches, expected, atol=1e-5, rtol=0)
