"""A LoRA merged from its file, beside peft's own merge."""

import json

import pytest
import torch
from helpers.tiny_models import FAMILIES, build, byte_level_tokenizer, tiny_llm
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from llava_rad.errors import WeightsError
from llava_rad.model import LoraSettings, ReportModel, load
from llava_rad.model.lora import CONFIG_FILE, WEIGHTS_FILE, lora_targets
from llava_rad.model.lora_merge import add_saved_lora
from llava_rad.tensor_files import read_tensors, write_tensors

VOCABULARY = 90


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes)).eval()


def llm_of(family):
    return gpt2() if family == "gpt2" else tiny_llm(family, VOCABULARY)


def saved(folder, family, **settings):
    """A LoRA with random weights, written by peft itself."""
    llm = llm_of(family)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": lora_targets(llm), **settings},
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(llm, config)
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder


def merged_by_peft(folder, family):
    return PeftModel.from_pretrained(llm_of(family), folder).merge_and_unload()


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_it_is_what_peft_merges_bit_for_bit(family, tmp_path):
    folder = saved(tmp_path / "lora", family)
    before = {n: p.clone() for n, p in llm_of(family).named_parameters()}
    own = dict(add_saved_lora(llm_of(family), folder).named_parameters())
    theirs = dict(merged_by_peft(folder, family).named_parameters())
    assert own.keys() == theirs.keys()
    for name, weight in own.items():
        assert torch.equal(weight, theirs[name]), name
    assert any(not torch.equal(weight, before[name]) for name, weight in own.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"layers_to_transform": [1]},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": ["layers.0.self_attn.q_proj"]},
        {"bias": "lora_only", "target_modules": ["fc1"]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_setting_gives_peft_s_weights(settings, tmp_path):
    family = "phi2" if "bias" in settings else "llama"
    folder = saved(tmp_path / "lora", family, **settings)
    own = add_saved_lora(llm_of(family), folder)
    theirs = merged_by_peft(folder, family)
    for (name, weight), (_, other) in zip(
        own.named_parameters(), theirs.named_parameters(), strict=True
    ):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6, msg=name)


def test_in_half_precision_the_sum_is_rounded_once(tmp_path):
    folder = saved(tmp_path / "lora", "llama")
    exact = dict(add_saved_lora(llm_of("llama").bfloat16().float(), folder).named_parameters())
    for name, weight in add_saved_lora(llm_of("llama").bfloat16(), folder).named_parameters():
        assert torch.equal(weight, exact[name].bfloat16()), name


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_a_file_that_does_not_fit_is_refused_before_anything_is_added(damage, tmp_path):
    folder = saved(tmp_path / "lora", "llama")
    tensors = read_tensors(folder / WEIGHTS_FILE)
    name = sorted(tensors)[0]
    if damage == "missing":
        del tensors[name]
    elif damage == "unexpected":
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 64)
    else:
        tensors[name] = tensors[name][:2].clone()
    write_tensors(tensors, folder / WEIGHTS_FILE)
    llm = llm_of("llama")
    before = {n: p.clone() for n, p in llm.named_parameters()}
    with pytest.raises(WeightsError, match=damage if damage != "shape" else "another shape"):
        add_saved_lora(llm, folder)
    assert all(torch.equal(p, before[n]) for n, p in llm.named_parameters())


def test_a_model_loads_with_its_lora_merged_as_peft_merges_it(tmp_path):
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(tmp_path / "llm")
    model = build(tokenizer, llm=llm, llm_id=str(tmp_path / "llm"), lora=LoraSettings(r=2, alpha=4))
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = model.save_pretrained(tmp_path / "model")
    own, theirs = load(str(folder)), ReportModel.from_pretrained(folder).merge()
    assert own.config == theirs.config and own.config.llm_weights == "full"
    wanted = dict(theirs.named_parameters())
    for name, weight in own.named_parameters():
        assert torch.equal(weight, wanted[name]), name
        assert not weight.requires_grad


def test_the_settings_of_a_damaged_file_are_refused(tmp_path):
    folder = saved(tmp_path / "lora", "llama")
    settings = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**settings, "r": 0}))
    with pytest.raises(WeightsError, match="no rank"):
        add_saved_lora(llm_of("llama"), folder)
