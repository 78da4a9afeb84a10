import json
import pickle

import numpy as np
import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

from llava_rad.encoders import ENCODERS, Preprocessing, load_encoder
from llava_rad.encoders.biovil import BioViLEncoder
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.probing import encoder_facts, randomised

FILES = {
    "biovil-t": "biovil_t_image_model_proj_size_128.pt",
    "biovil": "biovil_image_resnet50_proj_size_128.pt",
}
DIMS = {"biovil-t": 512, "biovil": 2048}
SIDES = {"biovil-t": 448, "biovil": 480}


def matter(model):
    """Weights and running statistics that all tell in the output."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.1 * noise if name.endswith(("var", "weight")) else 0.1 * noise)
    return model.eval()


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return matter(resnet50(weights=None))


@pytest.fixture(scope="module")
def checkpoints(trunk):
    """Keys and shapes as published, values at random."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator) / shape[1] ** 0.5

    resnet = {f"encoder.encoder.{key}": tensor for key, tensor in trunk.state_dict().items()}
    return {
        "biovil": {**resnet, "projector.model.0.weight": draw(128, 2048, 1, 1)},
        "biovil-t": {
            **resnet,
            "encoder.backbone_to_vit.weight": draw(256, 2048, 1, 1),
            "encoder.missing_previous_emb": draw(1, 256, 1, 1),
            "encoder.vit_pooler.type_embed": draw(2, 1, 256),
            "encoder.vit_pooler.blocks.0.attn.proj_q.weight": draw(256, 256),
            "projector.model.0.weight": draw(128, 512, 1, 1),
        },
    }


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory):
    """As the repositories are: the text model's configuration beside the image model."""
    found = {}
    for variant, state in checkpoints.items():
        found[variant] = tmp_path_factory.mktemp(variant)
        torch.save(state, found[variant] / FILES[variant])
        (found[variant] / "config.json").write_text(json.dumps({"model_type": "cxr-bert"}))
    return found


@pytest.fixture(scope="module")
def encoders(folders):
    return {variant: load_encoder(folder) for variant, folder in folders.items()}


@pytest.fixture
def pixels():
    """Wider than high: [2, 3, 64, 96]."""
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def expected_map(variant, trunk, state, pixels):
    """From torchvision's trunk: [batch, dim, rows, columns]."""
    feature_map = create_feature_extractor(trunk, ["layer4"])(pixels)["layer4"]
    if variant == "biovil":
        return feature_map
    static = F.conv2d(feature_map, state["encoder.backbone_to_vit.weight"])
    change = torch.ones_like(static) * state["encoder.missing_previous_emb"]
    return torch.cat([static, change], dim=1)


@pytest.mark.parametrize("variant", FILES)
def test_tokens_are_the_feature_map_and_cls_is_its_mean(
    variant, encoders, trunk, checkpoints, pixels
):
    expected = expected_map(variant, trunk, checkpoints[variant], pixels)
    output = encoders[variant].encode(pixels)
    assert output.patches.shape == (2, 6, DIMS[variant])
    torch.testing.assert_close(output.patches[:, 4], expected[:, :, 1, 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        output.patches.transpose(1, 2).reshape(expected.shape), expected, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(output.cls, expected.mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", FILES)
def test_features_are_those_of_hi_ml_multimodal(variant, tmp_path):
    models = pytest.importorskip(
        "health_multimodal.image.model.model",
        reason="hi-ml-multimodal is not installed",
        exc_type=ImportError,
    )
    kind = "resnet50_multi_image" if variant == "biovil-t" else "resnet50"
    torch.manual_seed(3)
    reference = matter(models.ImageModel(img_encoder_type=kind, joint_feature_size=128))
    torch.save(reference.state_dict(), tmp_path / FILES[variant])
    encoder = load_encoder(tmp_path)
    pixels = torch.rand(1, 3, SIDES[variant], SIDES[variant])
    with torch.no_grad():
        theirs, ours = reference(pixels), encoder.encode(pixels)
    torch.testing.assert_close(ours.cls, theirs.img_embedding, atol=1e-5, rtol=1e-5)
    patches = theirs.patch_embeddings.flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours.patches, patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", FILES)
def test_images_are_prepared_as_published(variant, encoders):
    published = transforms.Compose(
        [transforms.Resize(512), transforms.CenterCrop(SIDES[variant]), transforms.ToTensor()]
    )
    for shape in [(700, 611), (533, 640), (512, 512), (301, 300), (1024, 1027)]:
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = published(Image.fromarray(image)).expand(3, -1, -1)
        torch.testing.assert_close(
            encoders[variant].preprocessing(image), expected, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("variant", "tokens", "behind"), [("biovil-t", 196, 256 * 2048 + 256), ("biovil", 225, 0)]
)
def test_a_row_of_a_comparison_states_what_makes_the_tokens(
    variant, tokens, behind, encoders, trunk
):
    facts = encoder_facts(encoders[variant])
    in_trunk = sum(p.numel() for n, p in trunk.named_parameters() if not n.startswith("fc."))
    assert facts["parameters"] == in_trunk + behind
    assert (facts["tokens"], facts["dim"]) == (tokens, DIMS[variant])
    assert (facts["input_size"], facts["patch_size"]) == (SIDES[variant], 32)
    assert facts["preprocessing"] == (
        "shorter side 512, centre crop, bilinear, mean 0.000, std 1.000, minmax"
    )


@pytest.mark.parametrize("variant", FILES)
def test_saved_and_loaded_it_is_the_same(variant, encoders, tmp_path, pixels):
    encoder = encoders[variant]
    encoder.save_pretrained(tmp_path)
    again = load_encoder(tmp_path)
    assert again.fingerprint() == encoder.fingerprint()
    assert again.preprocessing == encoder.preprocessing and again.variant == variant
    assert torch.equal(again.encode(pixels).patches, encoder.encode(pixels).patches)
    assert again.load_report.ignored == ()


def test_registered_names_take_the_image_model_of_their_repositories(
    folders, encoders, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    for variant, name in [("biovil-t", "biovil-t"), ("biovil", ENCODERS["biovil"].hub_id)]:
        hub_id = ENCODERS[variant].hub_id
        with pytest.raises(WeightsError, match=f"hf download {hub_id}"):
            load_encoder(name)
        repository = tmp_path / f"models--{hub_id.replace('/', '--')}"
        for part in ("refs", "snapshots"):
            (repository / part).mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots" / commit).symlink_to(folders[variant])
        encoder = load_encoder(name)
        assert (encoder.name, encoder.variant) == (name, variant)
        assert encoder.fingerprint() == encoders[variant].fingerprint()


def test_another_size_and_dtype_are_followed(folders, pixels):
    encoder = load_encoder(folders["biovil-t"], image_size=224, dtype="bfloat16")
    assert (encoder.image_size, encoder.preprocessing.shorter_side) == (224, 256)
    assert encoder.num_tokens == 49
    assert encoder.encode(pixels).patches.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="multiples of 32"):
        encoder.encode(pixels[..., :80])


def test_other_layers_are_refused(folders):
    with pytest.raises(ConfigError, match="layer -2"):
        load_encoder(folders["biovil-t"], layer=-2)


class TestUnfitWeights:
    """A checkpoint is taken whole or not at all."""

    def write(self, folder, state, variant="biovil-t"):
        # Expanded zeros keep the shapes and leave the file small.
        small = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()}
        torch.save(small, folder / FILES[variant])
        return folder

    def test_what_lies_behind_the_tokens_is_ignored_by_name(self, encoders):
        assert set(encoders["biovil-t"].load_report.ignored) == {
            "encoder.encoder.fc.bias",
            "encoder.encoder.fc.weight",
            "encoder.vit_pooler.blocks.0.attn.proj_q.weight",
            "encoder.vit_pooler.type_embed",
            "projector.model.0.weight",
        }

    def test_missing_and_unexpected_keys_are_named(self, checkpoints, tmp_path):
        state = dict(checkpoints["biovil-t"])
        state["encoder.prefix.weight"] = state.pop("encoder.missing_previous_emb")
        with pytest.raises(WeightsError) as error:
            load_encoder(self.write(tmp_path, state))
        assert "missing 1 (encoder.missing_previous_emb)" in str(error.value)
        assert "unexpected 1 (encoder.prefix.weight)" in str(error.value)

    def test_the_other_model_under_the_name_is_refused(self, checkpoints, tmp_path):
        with pytest.raises(WeightsError, match=r"missing 2 .*encoder\.backbone_to_vit\.weight"):
            load_encoder(self.write(tmp_path, checkpoints["biovil"], "biovil-t"))
        (tmp_path / FILES["biovil-t"]).unlink()
        with pytest.raises(WeightsError, match=r"unexpected 2 .*encoder\.backbone_to_vit\.weight"):
            load_encoder(self.write(tmp_path, checkpoints["biovil-t"], "biovil"))

    def test_pickled_objects_are_refused(self, tmp_path):
        content = pickle.dumps({"model": Preprocessing(32, 0, 1)}, protocol=2)
        (tmp_path / FILES["biovil-t"]).write_bytes(content)
        with pytest.raises(WeightsError, match="run code"):
            load_encoder(tmp_path)

    def test_a_folder_of_both_or_another_name_is_refused(self, tmp_path):
        for name in FILES.values():
            (tmp_path / name).touch()
        with pytest.raises(WeightsError, match="holds 2 of the checkpoints biovil_t_image_model"):
            load_encoder(tmp_path)
        for name in FILES.values():
            (tmp_path / name).unlink()
        (tmp_path / "biovil_3_proj_size_128.pt").touch()
        with pytest.raises(WeightsError, match="holds none of the checkpoints"):
            load_encoder(tmp_path)


def test_running_statistics_stand_still_while_a_report_model_trains():
    encoder = BioViLEncoder("biovil-t", Preprocessing(image_size=64, mean=0.0, std=1.0))
    model = build(byte_level_tokenizer(), encoder=encoder)
    model.train()
    assert model.training and not any(module.training for module in model.encoder.modules())
    before = model.encoder.fingerprint()
    with torch.no_grad():
        model.encoder.encode(torch.rand(2, 3, 64, 64))
    assert model.encoder.fingerprint() == before
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_fine_tuning_moves_weights_and_not_running_statistics(pixels):
    encoder = BioViLEncoder("biovil-t").requires_grad_(True)
    nn.Sequential(encoder).train()
    before = {key: buffer.clone() for key, buffer in encoder.named_buffers()}
    encoder.encode(pixels).cls.square().sum().backward()
    assert all(torch.equal(buffer, before[key]) for key, buffer in encoder.named_buffers())
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("variant", FILES)
def test_random_weights_replace_all_and_tell_images_apart(variant, encoders, pixels):
    fresh = randomised(encoders[variant])
    state = encoders[variant].state_dict()
    kept = [key for key, tensor in fresh.state_dict().items() if torch.equal(tensor, state[key])]
    assert all(key.endswith("num_batches_tracked") for key in kept)
    for key, buffer in fresh.named_buffers():
        if key.endswith("running_mean"):
            assert (buffer == 0).all()
        elif key.endswith("running_var"):
            assert (buffer == 1).all()
    with torch.no_grad():
        output = fresh.encode(pixels)
    assert 0.05 < output.patches.std() < 5
    assert (output.cls[0] - output.cls[1]).norm() > 0.01
    if variant == "biovil-t":
        assert 0.01 < output.patches[..., 256:].std() < 0.03  # of the learned token
