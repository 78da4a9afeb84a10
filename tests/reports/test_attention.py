import weakref

import numpy as np
import pytest
import torch
from helpers.llm_families import folder_of
from helpers.tiny_models import build, byte_level_tokenizer, picture, tiny_encoder, tiny_llm
from transformers import MambaConfig, MambaForCausalLM

from llava_rad.encoders import Preprocessing
from llava_rad.errors import ModelError
from llava_rad.model import (
    AdapterConfig,
    LoraSettings,
    ReportModel,
    ReportRequest,
    RequestImage,
    load_llm,
    load_tokenizer,
)
from llava_rad.reports.attention import ImageAttention, report_attention

TEXT = "No acute disease. The lungs are clear.\nHeart size is normal."
SENTENCES = ["No acute disease.", "The lungs are clear.", "Heart size is normal."]
FRONTAL = ReportRequest((RequestImage("current_frontal", picture(1)),), indication="cough")
BOTH = ReportRequest(
    (
        RequestImage("current_frontal", picture(1)),
        RequestImage("current_lateral", picture(2, 56, 90)),
    )
)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


def by_hand(model, request, text=TEXT):
    """Mean attention [tokens of images] of each sentence, from transformers' own attentions."""
    processor = model.processor
    prompt = processor.encode(request).input_ids
    ids = prompt + processor.encode(request, text).input_ids[len(prompt) :]
    llm = model.llm
    before = llm.config._attn_implementation
    llm.set_attn_implementation("eager")
    patches = model.encode_images(processor.pixel_values([request]))
    with torch.no_grad():
        embeds = model.embed(torch.tensor([ids]), patches)
        layers = llm(inputs_embeds=embeds, output_attentions=True).attentions
    llm.set_attn_implementation(before)
    mean = torch.stack(layers).mean((0, 1, 2))
    images = [place for place, token in enumerate(ids) if token < 0]
    found = []
    begin = len(prompt)
    for sentence in SENTENCES if text == TEXT else [text]:
        while not processor.tokenizer.decode(ids[begin]).strip():
            begin += 1  # a blank is no word
        end, said = begin, ""
        while said.strip() != sentence:
            end += 1
            said = processor.tokenizer.decode(ids[begin:end])
        found.append(mean[begin - 1 : end - 1][:, images].mean(0).numpy())
        begin = end
    return found


@pytest.mark.parametrize("request_", [FRONTAL, BOTH], ids=["one image", "two images"])
@pytest.mark.parametrize("family", ["llama", "phi2", "phi3", "qwen2"])
def test_it_is_the_mean_of_what_transformers_gives(tokenizer, family, request_):
    model = build(tokenizer, family)
    wanted = by_hand(model, request_)
    found = report_attention(model, request_, TEXT)
    assert [TEXT[sentence.start : sentence.end] for sentence in found] == SENTENCES
    for sentence, mean in zip(found, wanted, strict=True):
        assert sentence.share == pytest.approx(mean.sum(), rel=1e-4)
        grids = np.stack([image.grid for image in sentence.images])
        np.testing.assert_allclose(grids.ravel(), mean / mean.mean(), rtol=1e-3)
    assert not np.allclose(found[0].images[0].grid, found[1].images[0].grid, rtol=1e-3)
    assert model.llm.config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_families_of_other_code_give_it_or_are_named():
    """Falcon's code in transformers cannot change its attention once it is loaded."""
    without = []
    for family in ("Gemma 3", "Mixtral", "Falcon", "GPT-NeoX (Pythia)", "GPT-J", "OPT", "BLOOM"):
        folder = str(folder_of(family))
        llm, reference = load_llm(folder)
        model = ReportModel.build(tiny_encoder(), llm, reference, load_tokenizer(folder))
        wanted = by_hand(model, FRONTAL, "The lungs are clear.") if family != "Falcon" else None
        try:
            [sentence] = report_attention(model, FRONTAL, "The lungs are clear.")
        except ModelError as error:
            assert error.kind == "no_attention"
            without.append(family)
            continue
        assert sentence.share == pytest.approx(wanted[0].sum(), rel=1e-3), family
        even = wanted[0] / max(wanted[0].mean(), 1e-12)
        np.testing.assert_allclose(sentence.images[0].grid.ravel(), even, rtol=1e-2, err_msg=family)
    assert without == ["Falcon"]


def test_a_lora_counts_and_stays(tokenizer):
    plain = build(tokenizer)
    model = build(tokenizer, lora=LoraSettings(r=2, dropout=0.0))
    same = report_attention(model, FRONTAL, TEXT)[0].images[0].grid
    np.testing.assert_allclose(
        same, report_attention(plain, FRONTAL, TEXT)[0].images[0].grid, rtol=1e-4
    )
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                parameter += 0.5
    assert not np.allclose(report_attention(model, FRONTAL, TEXT)[0].images[0].grid, same)


def test_one_layer_of_attention_is_held_at_a_time(tokenizer):
    """What a layer gave is gone when the next one has made its own."""
    model = build(tokenizer, llm=tiny_llm("llama", len(tokenizer)))
    alive, most = [], []

    def count(module, inputs, output):
        alive.append(weakref.ref(output[1]))
        most.append(sum(found() is not None for found in alive))

    for layer in model.llm.model.layers:
        layer.self_attn.register_forward_hook(count)
    report_attention(model, FRONTAL, TEXT)
    assert len(alive) == 2 and max(most) == 1


def test_a_text_without_words_has_no_sentence(tokenizer):
    assert report_attention(build(tokenizer), FRONTAL, " \n <|im_end|>") == []


def test_an_llm_without_attention_is_named(tokenizer):
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1)
    with pytest.raises(ModelError, match="MambaForCausalLM gives no attention"):
        report_attention(build(tokenizer, llm=MambaForCausalLM(config)), FRONTAL, TEXT)


def test_pooled_tokens_lie_where_their_patches_are():
    adapter = AdapterConfig(pool=2)
    values = torch.arange(6.0)
    found = adapter.on_patches(values, (3, 5))
    pooled = torch.nn.functional.avg_pool2d(
        found[None, None], 2, ceil_mode=True, count_include_pad=False
    )
    assert found.shape == (3, 5)
    assert pooled.flatten().equal(values)


GEOMETRIES = [
    ("shorter_side_center_crop", {}),
    ("shorter_side_center_crop", {"shorter_side": 70}),
    ("pad_square", {}),
    ("resize", {}),
]


@pytest.mark.parametrize(("height", "width"), [(200, 120), (90, 260), (140, 140)])
@pytest.mark.parametrize(("geometry", "options"), GEOMETRIES)
def test_a_patch_lies_on_the_radiograph_where_its_light_came_from(
    tokenizer, monkeypatch, geometry, options, height, width
):
    """A bright place of the picture, the patch it falls into, and the place of that patch agree."""
    preprocessing = Preprocessing(56, (0.5,) * 3, (0.25,) * 3, geometry=geometry, **options)
    encoder = tiny_encoder()
    encoder.preprocessing = preprocessing
    model = build(tokenizer, encoder=encoder)
    bright = (height // 2 + 13, width // 2 - 11)
    pixels = np.zeros((height, width), np.uint8)
    pixels[bright[0] - 4 : bright[0] + 5, bright[1] - 4 : bright[1] + 5] = 255
    light = preprocessing(pixels)[0].unflatten(0, (4, 14)).unflatten(2, (4, 14)).mean((1, 3))
    [sentence] = report_attention(model, on_picture(pixels), "The lungs are clear.")
    placed = ImageAttention(np.asarray(light - light.min()), sentence.images[0].box)
    found = placed.on_radiograph(height, width)
    assert found.shape == (height, width)
    rows, columns = np.indices(found.shape)
    centre = (found * rows).sum() / found.sum(), (found * columns).sum() / found.sum()
    patch = 14 / 56 * max(sentence.images[0].box[2:])
    assert abs(centre[0] - bright[0]) < patch / 2 and abs(centre[1] - bright[1]) < patch / 2
    if geometry == "shorter_side_center_crop" and height != width:
        assert not found[0].any() or not found[:, 0].any()


def on_picture(pixels):
    made = picture()
    object.__setattr__(made, "pixels", pixels)
    return ReportRequest((RequestImage("current_frontal", made),))
