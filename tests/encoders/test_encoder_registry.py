import json
import shutil

import pytest
import timm
import torch

from llava_rad.encoders import ENCODERS, RAD_DINO, Preprocessing, load_encoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.errors import ConfigError, WeightsError


@pytest.fixture
def folder(dinov2, preprocessing, tmp_path):
    Dinov2Encoder(dinov2, preprocessing).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache; returns a function that puts a folder there as a repository."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(hub_id, folder, revision="main"):
        repository = cache / f"models--{hub_id.replace('/', '--')}"
        commit = "0123456789abcdef0123456789abcdef01234567"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)

    return put


def test_rad_dino_is_loaded_from_the_hub_cache(hub_cache, folder, pixels):
    hub_cache("microsoft/rad-dino", folder)
    encoder = load_encoder("rad-dino")
    assert encoder.name == "rad-dino"
    assert torch.equal(encoder.encode(pixels).patches, load_encoder(folder).encode(pixels).patches)
    assert load_encoder("microsoft/rad-dino").fingerprint() == encoder.fingerprint()


def test_a_revision_is_followed(hub_cache, folder):
    hub_cache("someone/encoder", folder, revision="v2")
    assert load_encoder("someone/encoder", revision="v2").dim == 32
    with pytest.raises(WeightsError, match="hf download someone/encoder"):
        load_encoder("someone/encoder", revision="v1")


def test_biomedclip_cxr_takes_two_files_of_its_repository_and_layer_minus_2(hub_cache, tmp_path):
    trunk = timm.create_model("test_vit", num_classes=0)
    state = {f"visual.trunk.{key}": tensor for key, tensor in trunk.state_dict().items()}
    vision = {"timm_model_name": "test_vit", "image_size": 160}
    repository = tmp_path / "llava-rad"
    repository.mkdir()
    (repository / "config.json").write_text(json.dumps({"model_type": "llava"}))
    config, weights = ENCODERS["biomedclip-cxr"].open_clip_files
    (repository / config).write_text(json.dumps({"vision_cfg": vision}))
    torch.save(state, repository / weights)
    hub_cache("microsoft/llava-rad", repository)
    encoder = load_encoder("biomedclip-cxr")
    assert (encoder.layer, encoder.dim, encoder.image_size) == (-2, trunk.embed_dim, 160)
    assert load_encoder("biomedclip-cxr", layer=-1).layer == -1


@pytest.mark.parametrize("name", ["rad-dino", "biomedclip", "biomedclip-cxr", "nobody/nothing"])
def test_what_cannot_be_downloaded_says_how_to_get_it(hub_cache, name):
    hub_id = ENCODERS[name].hub_id if name in ENCODERS else name
    with pytest.raises(WeightsError, match=f"cannot be downloaded.*hf download {hub_id}") as error:
        load_encoder(name)
    assert error.value.kind == "not_downloaded"
    assert "\n" not in str(error.value)


def test_a_half_downloaded_repository_says_what_is_missing(hub_cache, folder):
    (folder / "model.safetensors").unlink()
    hub_cache("microsoft/rad-dino", folder)
    with pytest.raises(WeightsError, match="no weights"):
        load_encoder("rad-dino")


@pytest.mark.parametrize("name", ["rad-dinoo", "/no/such/folder", "./a/b", "a b/c", "../x"])
def test_unknown_names_and_paths_list_the_known_ones(name):
    with pytest.raises(WeightsError, match=r"no such encoder, folder or file.*rad-dino"):
        load_encoder(name)


def test_registered_names_are_no_paths_and_no_hub_ids():
    assert "rad-dino" in ENCODERS and ENCODERS["rad-dino"].layer is None
    assert not any("/" in name for name in ENCODERS)
    assert all(entry.hub_id.count("/") == 1 and entry.about for entry in ENCODERS.values())


def test_mini_is_the_encoder_of_the_bundled_model(hub_cache):
    from llava_rad.bundled import BUNDLED
    from llava_rad.probing import load_judged
    from llava_rad.report_training.shapes import encoder_shape

    wanted = load_encoder(BUNDLED["mini"] / "encoder")
    named = load_encoder("mini")
    assert named.name == "mini" and named.fingerprint() == wanted.fingerprint()
    assert load_encoder(BUNDLED["mini"]).fingerprint() == wanted.fingerprint()
    assert load_judged("random:mini").dim == wanted.dim
    assert encoder_shape("mini").tokens == wanted.num_tokens


def test_the_folder_of_a_pretraining_stands_for_its_encoder(folder, tmp_path):
    wanted = load_encoder(folder).fingerprint()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    shutil.copytree(folder, tmp_path / "run" / "encoder")
    assert load_encoder(tmp_path / "run").fingerprint() == wanted


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(WeightsError, match=r"config\.json.*JSON"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError, match=r"'bert'.*dinov2.*siglip"):
        load_encoder(tmp_path)


def test_arguments(folder, tmp_path):
    assert load_encoder(folder, dtype=torch.float16).dtype == torch.float16
    assert load_encoder(str(folder), image_size=84).preprocessing.shorter_side == 84
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        load_encoder(folder, dtype="int8")
    with pytest.raises(ConfigError, match="revision"):
        load_encoder(folder, revision="main")
    meta = load_encoder(folder, device="meta")
    assert next(meta.parameters()).device.type == "meta"
    other = Preprocessing(image_size=28, mean=0.5, std=0.5)
    assert load_encoder(folder, preprocessing=other).image_size == 28


def test_preprocessing_of_a_loaded_encoder_makes_what_it_takes(folder, image):
    encoder = load_encoder(folder)
    output = encoder.encode(encoder.preprocessing(image)[None])
    assert output.cls.shape == (1, 32) and output.patches.shape == (1, 16, 32)
    assert torch.equal(encoder(encoder.preprocessing(image)[None]).cls, output.cls)
    encoder.preprocessing.require_same(load_encoder(folder).preprocessing)
    with pytest.raises(ConfigError, match="image_size"):
        encoder.preprocessing.require_same(RAD_DINO)


def test_attention_is_not_taken_from_a_hub_repository(folder, pixels):
    """A configuration may name a repository of kernels, whose code would then be run."""
    expected = load_encoder(folder).encode(pixels).patches
    config = json.loads((folder / "config.json").read_text())
    named = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    (folder / "config.json").write_text(json.dumps({**config, **named}))
    encoder = load_encoder(folder)
    assert encoder.model.config._attn_implementation in ("sdpa", "eager")
    assert torch.equal(encoder.encode(pixels).patches, expected)
