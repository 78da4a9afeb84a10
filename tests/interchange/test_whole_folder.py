"""Whole folders for transformers: the same logits for every encoder and LLM, there and back."""

import json

import pytest
import timm
import torch
from helpers.tiny_checkpoints import TOWER, logits_of, randomise, request
from helpers.tiny_models import build, byte_level_tokenizer, tiny_encoder, tiny_llm
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.biovil import BioViLEncoder
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.dinov3 import Dinov3Encoder
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.encoders.timm_vit import TimmEncoder
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.interchange import convert
from llava_rad.interchange.whole_folder import write_whole
from llava_rad.model import IMAGE_TOKEN, AdapterConfig, LoraSettings, ReportModel

SMALL = Preprocessing(image_size=28, mean=(0.5, 0.45, 0.4), std=(0.3, 0.25, 0.27))
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TWO = (request(1), request(2, indication=None))


def dinov2(layer=None, size=56, **options):
    made = tiny_encoder(size=56)
    preprocessing = Preprocessing(image_size=size, mean=0.5, std=0.25)
    return Dinov2Encoder(made.model, preprocessing, layer=layer, **options)


def registers():
    config = Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3)
    return Dinov2Encoder(randomise(Dinov2WithRegistersModel(config)), SMALL)


def dinov3():
    config = DINOv3ViTConfig(**SIZES, num_register_tokens=2)
    return Dinov3Encoder(randomise(DINOv3ViTModel(config)), SMALL)


def clip(layer=None):
    return ClipEncoder(randomise(CLIPVisionModel(TOWER)), SMALL, layer=layer)


def siglip():
    return SiglipEncoder(randomise(SiglipVisionModel(SiglipVisionConfig(**SIZES))), SMALL)


def siglip2():
    sizes = {key: value for key, value in SIZES.items() if key != "image_size"}
    config = Siglip2VisionConfig(**sizes, num_patches=4)
    return SiglipEncoder(randomise(Siglip2VisionModel(config)), SMALL)


def vit(architecture="vit_interchange_test", layer=None, **options):
    trunk = timm.create_model(architecture, num_classes=0, dynamic_img_size=True, **options)
    return TimmEncoder(
        randomise(trunk), SMALL, architecture=architecture, model_args=options, layer=layer
    )


def eva():
    """Whose rotary tables are computed, and so in no file."""
    return vit("eva02_tiny_patch14_224", img_size=28, embed_dim=32, depth=2, num_heads=2)


ENCODERS = {
    "dinov2": dinov2,
    "dinov2-inner-block": lambda: dinov2(layer=-2),
    "dinov2-other-size": lambda: dinov2(size=84, position_interpolation="scale_offset"),
    "dinov2-registers": registers,
    "dinov3": dinov3,
    "clip": clip,
    "clip-inner-block": lambda: clip(layer=-2),
    "siglip": siglip,
    "siglip2": siglip2,
    "timm": vit,
    "timm-inner-block": lambda: vit(layer=-2, qk_norm=True),
    "timm-eva": eva,
}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


def saved(folder, tokenizer, family="llama", *, llm=None, **options):
    """A model of this project in a folder, all its weights inside."""
    if llm is None:
        llm = tiny_llm(family, len(tokenizer))
    model = build(tokenizer, llm=llm, lora=LoraSettings(r=2, alpha=8), **options)
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model.eval().merge().save_pretrained(folder / "model")


@torch.no_grad()
def require_same_there_and_back(folder, tokenizer, *args, **options):
    source = saved(folder, tokenizer, *args, **options)
    report = convert(source, folder / "whole", to="transformers")
    assert report.target == "transformers" and report.notes == ()
    model = ReportModel.from_pretrained(source)
    whole, info = AutoModelForImageTextToText.from_pretrained(
        folder / "whole", output_loading_info=True
    )
    assert not any(info.values())
    wanted = logits_of(model, *TWO)
    rows = wanted[0].shape[1]
    for each, expected in zip(TWO, wanted, strict=True):
        ids = torch.tensor([model.processor.encode(each).input_ids])
        ids[ids == IMAGE_TOKEN] = whole.config.image_token_id
        pixels = model.processor.pixel_values([each])
        found = whole.eval()(input_ids=ids, pixel_values=pixels).logits[0]
        torch.testing.assert_close(found[:, :rows], expected, atol=1e-5, rtol=1e-5)

    assert convert(folder / "whole", folder / "again").layout == "transformers"
    again = ReportModel.from_pretrained(folder / "again")
    assert again.config.adapter == model.config.adapter
    assert again.processor.template == model.processor.template
    assert again.encoder.fingerprint() == model.encoder.fingerprint()
    for each, expected in zip(TWO, wanted, strict=True):
        assert again.processor.encode(each) == model.processor.encode(each)
        [found] = logits_of(again, each)
        torch.testing.assert_close(found[:, :rows], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "tied-llama", "qwen2", "phi2", "phi3"])
def test_llms_keep_their_logits(tokenizer, tmp_path, family):
    require_same_there_and_back(tmp_path, tokenizer, family)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_keep_their_tokens(tokenizer, tmp_path, kind):
    require_same_there_and_back(tmp_path, tokenizer, encoder=ENCODERS[kind]())


@pytest.mark.parametrize(
    "adapter",
    [AdapterConfig(layers=1), AdapterConfig(layers=4), AdapterConfig(hidden=40, pool=3)],
    ids=["linear", "four-layers", "pooled"],
)
def test_any_adapter_is_kept(tokenizer, tmp_path, adapter):
    require_same_there_and_back(tmp_path, tokenizer, adapter=adapter)


def test_a_head_that_caps_its_logits_is_kept(tokenizer, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        num_key_value_heads=2,
        final_logit_softcapping=3.0,
        pad_token_id=0,
        **sizes,
    )
    require_same_there_and_back(tmp_path, tokenizer, llm=randomise(Gemma2ForCausalLM(config)))


def test_the_folder_holds_weights_and_words_and_a_card(tokenizer, tmp_path):
    convert(saved(tmp_path, tokenizer), tmp_path / "whole", to="transformers", dtype=torch.bfloat16)
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    text = "".join(f.read_text() for f in (tmp_path / "whole").glob("*.json"))
    assert "auto_map" not in text and str(tmp_path) not in text
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "import llava_rad.hf" in card and "not for clinical use" in card
    assert AutoConfig.from_pretrained(tmp_path / "whole").dtype == torch.bfloat16


class TestRefusals:
    def test_an_encoder_that_transformers_cannot_describe(self, tokenizer, tmp_path):
        encoder = BioViLEncoder("biovil", Preprocessing(64, 0.0, 1.0, shorter_side=64))
        model = build(tokenizer, encoder=encoder)
        with pytest.raises(ModelError, match="no configuration for a BioViLEncoder"):
            write_whole(model, tmp_path / "whole")
        assert not (tmp_path / "whole").exists()

    def test_a_tower_that_is_not_what_its_configuration_says(self, tokenizer, tmp_path):
        encoder = vit()
        for block in encoder.trunk.blocks:
            block.mlp.act = torch.nn.ReLU()
        with pytest.raises(ModelError, match="differs from what its configuration says"):
            write_whole(build(tokenizer, encoder=encoder), tmp_path / "whole")

    def test_transformers_names_the_way_for_our_own_folder(self, tokenizer, tmp_path):
        source = saved(tmp_path, tokenizer)
        with pytest.raises(ConfigError, match=r"own folder layout.*--to transformers"):
            AutoConfig.from_pretrained(source)

    def test_this_project_names_the_way_for_a_folder_of_transformers(self, tokenizer, tmp_path):
        convert(saved(tmp_path, tokenizer), tmp_path / "whole", to="transformers")
        with pytest.raises(WeightsError, match="llava-rad convert FOLDER -o NEW"):
            ReportModel.from_pretrained(tmp_path / "whole")

    def test_a_damaged_folder(self, tokenizer, tmp_path):
        whole = tmp_path / "whole"
        convert(saved(tmp_path, tokenizer), whole, to="transformers")
        processor = json.loads((whole / "processor_config.json").read_text())
        del processor["template"]
        (whole / "processor_config.json").write_text(json.dumps(processor))
        with pytest.raises(WeightsError, match="template is missing or damaged"):
            convert(whole, tmp_path / "again")
        (whole / "model.safetensors").write_bytes(b"cut")
        with pytest.raises(WeightsError):
            convert(whole, tmp_path / "again")
        assert not (tmp_path / "again").exists()
