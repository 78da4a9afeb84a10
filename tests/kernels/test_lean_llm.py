"""LLMs with lean parts against the same LLMs as transformers writes them."""

import copy

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from helpers.tiny_models import FAMILIES, SIZES, tiny_llm
from peft import get_peft_model_state_dict
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llava_rad.kernels.attention import CPU_ATTENTION
from llava_rad.kernels.choice import lora_layers
from llava_rad.kernels.lean_llm import make_lean
from llava_rad.kernels.rms_norm import RMSNorm
from llava_rad.model.lora import LoraSettings, attach_lora, merge_lora

VOCABULARY = 60
OTHERS = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, vocab_size=VOCABULARY)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, vocab_size=VOCABULARY, head_dim=16)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, vocab_size=VOCABULARY, head_dim=16)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, vocab_size=VOCABULARY, head_dim=16)),
    "gelu-llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, vocab_size=VOCABULARY, hidden_act="gelu")
    ),
}
LEAN = ("llama", "tied-llama", "phi3", "qwen2", "mistral", "qwen3")
RIGID = ("gemma", "gemma2", "phi2")


def llm_of(family):
    if family in FAMILIES:
        return tiny_llm(family, VOCABULARY)
    torch.manual_seed(0)
    llm = OTHERS[family]().eval()
    for parameter in llm.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return llm


def pair(family, *, lora=True, dtype=torch.float32, dropout=0.0):
    """A lean LLM and one as it was, with equal weights, in training mode."""
    found = []
    for lean in (True, False):
        llm = llm_of(family).to(dtype)
        if lean:
            make_lean(llm)
        if lora:
            llm = attach_lora(llm, LoraSettings(r=4, alpha=8, dropout=dropout), lora_layers("cpu"))
            torch.manual_seed(1)
            for name, parameter in llm.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(0, 0.2)
        found.append(llm.train())
    return found


def step(llm, *, bf16=False):
    """Logits and gradients by name, in float32, and the bytes that are kept for the gradients."""
    torch.manual_seed(2)
    embeds = torch.randn(2, 9, SIZES["hidden_size"]).requires_grad_()
    llm.zero_grad()
    with (
        kept_for_backward() as kept,
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        inputs = embeds.bfloat16() if bf16 else embeds
        logits = llm(inputs_embeds=inputs, use_cache=False).logits
    logits.float().square().mean().backward()
    found = {name: p.grad.float() for name, p in llm.named_parameters() if p.grad is not None}
    found |= {"logits": logits.detach().float(), "embeds": embeds.grad}
    return found, sum(storage_bytes(kept, without=llm.parameters()).values())


def kinds(llm):
    return [type(part) for part in llm.modules()]


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("family", LEAN)
def test_a_step_is_that_of_transformers_and_keeps_less(family, lora):
    (found, kept), (expected, kept_before) = (step(llm) for llm in pair(family, lora=lora))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.norm() < 1e-6:  # a bias of the keys changes nothing
            continue
        assert (found[name] - value).norm() < 1e-5 * value.norm(), name
    assert kept < (0.8 if lora else 0.95) * kept_before


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_in_bfloat16_it_is_as_near_to_the_truth_as_transformers(family):
    lean, plain = pair(family, dtype=torch.bfloat16)
    exact = copy.deepcopy(plain).float()
    (found, kept), (expected, kept_before) = (step(llm, bf16=True) for llm in (lean, plain))
    truth, _ = step(exact)
    errors = [
        torch.stack([(step[name] - value).norm() / value.norm() for name, value in truth.items()])
        for step in (found, expected)
    ]
    assert errors[0].square().mean() < 1.2 * errors[1].square().mean()
    assert errors[0].max() < 0.1
    assert kept < 0.7 * kept_before


def test_dropout_of_the_lora_draws_the_same():
    found, expected = (step(llm)[0] for llm in pair("llama", dropout=0.3))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_gradient_checkpointing_gives_the_same(family):
    lean, plain = pair(family)
    lean.set_attn_implementation(CPU_ATTENTION)
    lean.gradient_checkpointing_enable({"use_reentrant": False})
    (found, _), (expected, _) = step(lean), step(plain)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", RIGID)
def test_a_family_that_computes_otherwise_is_left_alone(family):
    llm = llm_of(family)
    before = kinds(llm)
    make_lean(llm)
    assert kinds(llm) == before


def test_another_activation_is_left_alone():
    llm = llm_of("gelu-llama")
    make_lean(llm)
    assert type(llm.model.layers[0].mlp).__name__ == "LlamaMLP"
    assert isinstance(llm.model.norm, RMSNorm)


def test_a_norm_that_only_looks_like_llamas_is_left_alone():
    class ShiftedRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, x):
            return nn.functional.rms_norm(x, (8,), 1 + self.weight, self.variance_epsilon)

    parts = nn.Sequential(ShiftedRMSNorm())
    make_lean(parts)
    assert type(parts[0]) is ShiftedRMSNorm


@pytest.mark.parametrize("family", LEAN)
def test_generation_and_names_stay(family):
    lean, plain = (llm.eval() for llm in pair(family))
    assert list(lean.state_dict()) == list(plain.state_dict())
    assert list(get_peft_model_state_dict(lean)) == list(get_peft_model_state_dict(plain))
    ids = torch.randint(1, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    tokens = [llm.generate(input_ids=ids, attention_mask=mask, **options) for llm in (lean, plain)]
    assert torch.equal(*tokens)
    merged, expected = merge_lora(lean), merge_lora(plain)
    for (name, weight), (other, value) in zip(
        merged.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(weight, value)
    assert torch.equal(merged.generate(input_ids=ids, attention_mask=mask, **options), tokens[0])
