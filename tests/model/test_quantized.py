"""A quantised LLM: training after an evaluation pass, what its LoRA remembers, and no package."""

import importlib.util
import json
import logging

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, picture, tiny_llm

from llava_rad.extras import MissingExtraError
from llava_rad.model import LoraSettings, ReportModel, ReportRequest, RequestImage, load, load_llm
from llava_rad.model.llm import quantization_of

LORA = LoraSettings(r=4, alpha=8, dropout=0.0)
REQUEST = ReportRequest((RequestImage("current_frontal", picture(1)),))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_llm("llama", len(byte_level_tokenizer())).save_pretrained(folder)
    return str(folder)


def quantised(base, quantize, dtype=torch.float32, lora=LORA):
    llm, reference = load_llm(base, quantize=quantize, dtype=dtype, train=True, lora=lora)
    tokenizer = byte_level_tokenizer()
    from helpers.tiny_models import tiny_encoder

    return ReportModel.build(tiny_encoder(), llm, reference, tokenizer, lora=lora)


def batch_of(model):
    batch = model.processor.pad([model.processor.encode(REQUEST, "No acute disease.")], "right")
    return {**batch, "pixel_values": model.processor.pixel_values([REQUEST])}


def gradients(model):
    model.train()
    model.zero_grad()
    model(**batch_of(model)).loss.backward()
    return {
        n: p.grad.clone() for n, p in model.trainable_parameters().items() if p.grad is not None
    }


def stir(model):
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            generator = torch.Generator().manual_seed(3)
            parameter.data.normal_(0, 0.1, generator=generator)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "adapter alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["4bit", "8bit", None])
def test_an_evaluation_pass_leaves_the_gradients_of_training_as_they_are(
    base, quantize, dtype, lora
):
    model = quantised(base, quantize, dtype, lora)
    stir(model)
    before = gradients(model)
    assert before
    model.eval()
    with torch.inference_mode():
        model(**batch_of(model))
    with torch.no_grad():
        model(**batch_of(model))
    after = gradients(model)
    for name, gradient in before.items():
        assert torch.equal(after[name], gradient), name


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_gradients_are_those_of_the_plain_llm_up_to_its_coarser_weights(base, quantize):
    plain, coarse = quantised(base, None), quantised(base, quantize)
    stir(plain)
    stir(coarse)
    wanted, found = gradients(plain), gradients(coarse)
    assert wanted.keys() == found.keys()
    flat = [torch.cat([g[n].flatten() for n in wanted]) for g in (wanted, found)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.9


def test_weights_are_ordered_for_speed_only_where_nothing_can_be_trained(base):
    for fast, dtype, wanted in (
        (False, torch.bfloat16, False),
        (True, torch.float32, False),
    ):
        llm, _ = load_llm(base, quantize="4bit", dtype=dtype, fast_inference=fast)
        with torch.inference_mode():
            llm(torch.arange(9).reshape(1, -1))
        packed = {
            getattr(m.weight.quant_state, "packing_format_for_cpu", False)
            for m in llm.modules()
            if type(m).__name__ == "Linear4bit"
        }
        assert packed == {wanted}


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    model = quantised(base, "4bit")
    stir(model)
    model.eval()
    return model, model.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def logits(model):
    batch = batch_of(model)
    del batch["labels"]
    with torch.no_grad():
        return model(**batch).logits


def test_a_lora_says_what_it_was_trained_on_and_load_follows(saved):
    model, folder = saved
    assert json.loads((folder / "config.json").read_text())["llm_quantize"] == "4bit"
    again = load(str(folder))
    assert again.quantize == "4bit" and quantization_of(again.llm) == "4bit"
    assert torch.allclose(logits(again), logits(model), atol=1e-5)


@pytest.mark.parametrize(("quantize", "words"), [("none", "plain"), ("8bit", "8-bit")])
def test_another_base_is_warned_of(saved, caplog, quantize, words):
    model, folder = saved
    with caplog.at_level(logging.WARNING):
        other = load(str(folder), quantize=quantize)
    assert f"trained on 4-bit weights of the LLM and now adds to {words} weights" in caplog.text
    assert other.quantize == (None if quantize == "none" else quantize)
    assert (logits(other) - logits(model)).abs().max() > 1e-3


def test_what_was_trained_on_plain_weights_is_loaded_so_and_silently(base, tmp_path, caplog):
    folder = build(byte_level_tokenizer(), lora=LORA, llm_id=base).save_pretrained(tmp_path / "m")
    assert json.loads((folder / "config.json").read_text())["llm_quantize"] is None
    with caplog.at_level(logging.WARNING):
        assert load(str(folder), base_llm=base).quantize is None
    assert not caplog.text


def test_without_bitsandbytes_one_line_names_the_command(base, saved, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    for quantize in ("4bit", "8bit"):
        with pytest.raises(MissingExtraError, match=r"llava-rad\[quantize\]") as caught:
            load_llm(base, quantize=quantize)
        assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert load(str(saved[1])).quantize is None
    assert "pip install 'llava-rad[quantize]'" in caplog.text
