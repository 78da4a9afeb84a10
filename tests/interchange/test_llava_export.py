"""Models written in transformers' Llava layout: same logits, ids and texts, or a clear refusal."""

import numpy as np
import pytest
import timm
import torch
from helpers.tiny_checkpoints import TOWER, logits_of, randomise, request
from helpers.tiny_models import (
    build,
    byte_level_tokenizer,
    picture,
    reference_of,
    sentencepiece_tokenizer,
    tiny_encoder,
    tiny_llm,
)
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.encoders.timm_vit import TimmEncoder
from llava_rad.errors import ModelError
from llava_rad.interchange import convert
from llava_rad.model import (
    IMAGE_TOKEN,
    LLAVA_RAD,
    AdapterConfig,
    LoraSettings,
    PromptTemplate,
    ReportModel,
    ReportRequest,
    RequestImage,
)
from llava_rad.reports.generate import GenerationSettings, generate_reports

SMALL = Preprocessing(image_size=28, mean=(0.5, 0.45, 0.4), std=(0.3, 0.25, 0.27))
TWO = (request(1), request(2, indication=None))


def clip(layer=-2, preprocessing=SMALL):
    return ClipEncoder(randomise(CLIPVisionModel(TOWER)), preprocessing, layer=layer)


def siglip():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = SiglipVisionConfig(**sizes, num_attention_heads=2, image_size=28, patch_size=14)
    return SiglipEncoder(randomise(SiglipVisionModel(config)), SMALL, layer=-1)


def dinov2(layer=-1, size=56):
    made = tiny_encoder(size=56)
    preprocessing = Preprocessing(image_size=size, mean=0.5, std=0.25)
    return Dinov2Encoder(made.model, preprocessing, layer=layer)


def vit(layer=-2, **options):
    trunk = timm.create_model("vit_interchange_test", num_classes=0, **options)
    return TimmEncoder(
        randomise(trunk),
        SMALL,
        architecture="vit_interchange_test",
        model_args=options,
        layer=layer,
    )


ENCODERS = {
    "clip": clip,
    "siglip": siglip,
    "dinov2": dinov2,
    "timm": vit,
    "timm-layer-scale": lambda: vit(init_values=0.3),
    "timm-no-qkv-bias": lambda: vit(layer=-1, qkv_bias=False),
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


def exported(folder, tokenizer, *args, **options):
    """The model and what transformers loads of it."""
    source = saved(folder, tokenizer, *args, **options)
    report = convert(source, folder / "llava", to="llava")
    model = ReportModel.from_pretrained(source)
    llava, info = LlavaForConditionalGeneration.from_pretrained(
        folder / "llava", output_loading_info=True
    )
    assert not any(info.values())
    return model, llava.eval(), report


@torch.no_grad()
def require_same_logits(model, llava):
    for each, wanted in zip(TWO, logits_of(model, *TWO), strict=True):
        ids = torch.tensor([model.processor.encode(each).input_ids])
        ids[ids == IMAGE_TOKEN] = llava.config.image_token_index
        pixels = model.processor.pixel_values([each])
        found = llava(input_ids=ids, pixel_values=pixels).logits[0]
        assert found.shape[1] - wanted.shape[1] in (0, 1)
        torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "tied-llama", "qwen2", "phi3"])
def test_llms_give_the_same_logits(tokenizer, tmp_path, family):
    model, llava, _ = exported(tmp_path, tokenizer, family, encoder=clip())
    require_same_logits(model, llava)


@pytest.mark.parametrize("kind", ENCODERS)
def test_towers_give_the_same_logits(tokenizer, tmp_path, kind):
    model, llava, _ = exported(tmp_path, tokenizer, encoder=ENCODERS[kind]())
    require_same_logits(model, llava)


def boundary_tokenizer(kind, folder):
    if kind == "byte-level":
        return byte_level_tokenizer()
    return sentencepiece_tokenizer(folder, legacy=kind == "legacy")


@pytest.mark.parametrize("kind", ["byte-level", "legacy", "not-legacy"])
def test_the_processor_makes_the_same_ids_pixels_and_text(tmp_path, kind):
    tokenizer = boundary_tokenizer(kind, tmp_path)
    template = PromptTemplate(**LLAVA_RAD)
    model, llava, report = exported(tmp_path, tokenizer, encoder=clip(), template=template)
    assert not any(note.startswith("tokens:") for note in report.notes)
    processor = AutoProcessor.from_pretrained(tmp_path / "llava", backend="pil")
    shown = TWO[0].images[0].radiograph.pixels
    text = LLAVA_RAD["instruction_with_indication"].replace("{text}", "cough")
    picture = {"type": "image", "image": Image.fromarray(shown).convert("RGB")}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [picture, {"type": "text", "text": text}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    image = llava.config.image_token_index
    own = [image if i == IMAGE_TOKEN else i for i in model.processor.encode(TWO[0]).input_ids]
    assert inputs["input_ids"][0].tolist() == own
    torch.testing.assert_close(
        inputs["pixel_values"], model.processor.pixel_values(TWO[:1]), atol=1e-6, rtol=0
    )
    made = llava.generate(**inputs, max_new_tokens=8)[0, len(own) :].tolist()
    [report] = generate_reports(model, TWO[:1], GenerationSettings(max_new_tokens=8))
    assert model.processor.decode(made) == report.findings


def test_what_was_written_can_be_read_back(tmp_path):
    tokenizer = sentencepiece_tokenizer(tmp_path, legacy=False)
    template = PromptTemplate(**LLAVA_RAD)
    model, _, _ = exported(tmp_path, tokenizer, encoder=clip(), template=template)
    report = convert(tmp_path / "llava", tmp_path / "again")
    again = ReportModel.from_pretrained(tmp_path / "again")
    assert report.layout == "transformers-llava"
    assert again.processor.preprocessing == model.processor.preprocessing
    for each in TWO:
        assert again.processor.encode(each).input_ids == model.processor.encode(each).input_ids
    rows = len(tokenizer)
    for found, wanted in zip(logits_of(again, *TWO), logits_of(model, *TWO), strict=True):
        torch.testing.assert_close(found[:, :rows], wanted, atol=1e-4, rtol=1e-4)


def test_the_image_token_is_never_the_likeliest(tokenizer, tmp_path):
    llava = exported(tmp_path, tokenizer, encoder=clip())[1]
    image = llava.config.image_token_index
    assert image == len(tokenizer)
    ids = torch.randint(0, len(tokenizer), (8, 30))
    with torch.no_grad():
        logits = llava(input_ids=ids).logits
    assert (logits.argmax(-1) != image).all()


def test_a_prompt_of_several_images_has_our_ids(tokenizer, tmp_path):
    model, llava, report = exported(tmp_path, tokenizer, encoder=clip())
    assert report.notes == ()
    assert "not for clinical use" in (tmp_path / "llava" / "README.md").read_text()
    several = ReportRequest((*TWO[0].images, RequestImage("prior_frontal", picture(3))))
    content = [
        {"type": "image", "role": image.role, "image": Image.fromarray(image.radiograph.pixels)}
        for image in several.images
    ]
    found = AutoProcessor.from_pretrained(tmp_path / "llava", backend="pil").apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    image = llava.config.image_token_index
    own = [image if i == IMAGE_TOKEN else i for i in model.processor.encode(several).input_ids]
    assert found["input_ids"] == [own]


def test_weights_are_written_in_the_precision_asked_for(tokenizer, tmp_path):
    source = saved(tmp_path, tokenizer, encoder=clip())
    convert(source, tmp_path / "llava", to="llava", dtype=torch.bfloat16)
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
    assert {p.dtype for p in llava.parameters()} == {torch.bfloat16}


class TestRefusals:
    @pytest.fixture
    def refused(self, tokenizer, tmp_path):
        def check(message, kind, *args, **options):
            source = saved(tmp_path, tokenizer, *args, **options)
            with pytest.raises(ModelError, match=message) as caught:
                convert(source, tmp_path / "llava", to="llava")
            assert caught.value.kind == kind
            assert not (tmp_path / "llava").exists()

        return check

    def test_phi_2_for_the_bias_of_its_head(self, refused):
        refused(
            "head of PhiForCausalLM, which has a bias", "unsupported_llm", "phi2", encoder=clip()
        )

    def test_an_llm_that_caps_its_logits(self, refused, tokenizer):
        config = Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            final_logit_softcapping=3.0,
            pad_token_id=0,
        )
        llm = randomise(Gemma2ForCausalLM(config))
        assert reference_of(llm).architecture == "Gemma2ForCausalLM"
        refused("its logits would differ", "unsupported_llm", llm=llm, encoder=clip())

    @pytest.mark.parametrize(
        ("adapter", "message"),
        [
            (AdapterConfig(layers=1), "adapter of 1 layers"),
            (AdapterConfig(layers=4), "adapter of 4 layers"),
            (AdapterConfig(pool=2), "pooling 2"),
            (AdapterConfig(hidden=40), "inner width 40"),
        ],
    )
    def test_other_adapters(self, refused, adapter, message):
        refused(message, "unsupported_adapter", encoder=clip(), adapter=adapter)

    @pytest.mark.parametrize("make", [clip, dinov2, vit], ids=["clip", "dinov2", "timm"])
    def test_tokens_after_the_final_norm(self, refused, make):
        refused("after the encoder's final norm", "unsupported_tower", encoder=make(layer=None))

    def test_registers(self, refused):
        config = Dinov2WithRegistersConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=14,
            image_size=28,
            num_register_tokens=3,
        )
        tower = Dinov2Encoder(Dinov2WithRegistersModel(config).eval(), SMALL, layer=-1)
        refused("4 tokens before the patch tokens", "unsupported_tower", encoder=tower)

    def test_images_of_another_size_than_the_positions(self, refused):
        larger = SMALL.with_image_size(42)
        refused(
            "42 pixels with positions for 28",
            "unsupported_tower",
            encoder=clip(preprocessing=larger),
        )

    def test_a_timm_tower_of_other_blocks(self, refused):
        refused("attn.q_norm", "unsupported_tower", encoder=vit(qk_norm=True))

    def test_a_timm_tower_of_another_activation(self, refused):
        encoder = vit()
        for block in encoder.trunk.blocks:
            block.mlp.act = torch.nn.ReLU()
        # ReLU is not saved with the weights, so the model is converted from memory's parts
        from llava_rad.interchange.export import write_llava

        tokenizer = byte_level_tokenizer()
        model = build(tokenizer, encoder=encoder)
        with pytest.raises(ModelError, match="image tokens would differ"):
            write_llava(model, None)


def test_pixels_of_the_example_are_not_all_alike():
    values = TWO[0].images[0].radiograph.pixels
    assert np.unique(values).size > 50
