"""The written-out attention for CPUs against transformers' own."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_llm
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llava_rad.errors import ModelError
from llava_rad.model.attention import CPU_ATTENTION, cpu_attention

VOCABULARY = 60


def step(llm, name, ids, mask):
    """Logits at real tokens, and the gradient of their sum of squares."""
    llm.set_attn_implementation(name)
    llm.zero_grad()
    logits = llm(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
    logits.square().mean().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in llm.parameters()])


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_gradients_are_those_of_eager(family, side):
    llm = tiny_llm(family, VOCABULARY).train()
    ids = torch.randint(1, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, slice(0, 4) if side == "left" else slice(7, 11)] = 0
    own, theirs = step(llm, CPU_ATTENTION, ids, mask), step(llm, "eager", ids, mask)
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "phi2"])
def test_generation_with_a_cache_gives_the_same_tokens(family):
    llm = tiny_llm(family, VOCABULARY)
    ids = torch.randint(1, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = []
    for name in (CPU_ATTENTION, "eager"):
        llm.set_attn_implementation(name)
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        found.append(llm.generate(ids, attention_mask=mask, **options))
    assert torch.equal(*found)


def test_grouped_heads_in_bfloat16_are_near_the_truth_under_autocast():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 9, 16).bfloat16() for heads in (6, 2, 2))
    module = nn.Module()
    module.num_key_value_groups = 3
    mask = torch.full((1, 1, 9, 9), -torch.inf).triu(1)
    with torch.autocast("cpu", torch.bfloat16):
        own, _ = cpu_attention(module, query, key, value, mask)
    assert own.dtype == torch.bfloat16
    truth, _ = sdpa_attention_forward(module, query.double(), key.double(), value.double(), None)
    assert (own - truth).norm() < 0.01 * truth.norm()


def test_dropout_leaves_weights_out_in_training_only():
    module = nn.Module()
    query = torch.randn(1, 1, 4, 8)
    value = torch.eye(4)[None, None]
    weights, _ = cpu_attention(module, query, query, value, None, dropout=0.5)
    assert (weights == 0).any()
    weights, _ = cpu_attention(module.eval(), query, query, value, None, dropout=0.5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 1))


def test_what_it_does_not_compute_is_refused():
    query = torch.randn(1, 1, 4, 8)
    with pytest.raises(ModelError, match=r"softcap.*attention=eager"):
        cpu_attention(nn.Module(), query, query, query, None, softcap=30.0)
