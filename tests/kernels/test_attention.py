"""The written-out attention for CPUs against transformers' own."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from helpers.tiny_models import FAMILIES, tiny_llm
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llava_rad.errors import ModelError
from llava_rad.kernels import attention
from llava_rad.kernels.attention import CPU_ATTENTION, cpu_attention

VOCABULARY = 60


def step(llm, name, ids, mask):
    """Logits at real tokens, and the gradient of their sum of squares."""
    llm.set_attn_implementation(name)
    llm.zero_grad()
    logits = llm(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
    logits.square().mean().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in llm.parameters()])


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_logits_and_gradients_are_those_of_eager(family, side):
    llm = tiny_llm(family, VOCABULARY).train()
    ids = torch.randint(1, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if side != "none":
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


def heads(length, *, width=16, dtype=torch.float64):
    """Query of 6 heads, key and value of 2."""
    torch.manual_seed(0)
    return [torch.randn(3, h, length, width, dtype=dtype, requires_grad=True) for h in (6, 2, 2)]


# One group of heads at a time, 4 of the 6, all.
@pytest.mark.parametrize("scores", [1, 4 * 3 * 4 * 9, 2**20])
@pytest.mark.parametrize("length", [1, 2, 9, 12])
def test_causal_attention_and_its_gradients_are_exact(length, scores, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 4)
    monkeypatch.setattr(attention, "_SCORES", scores)
    inputs = heads(length)
    module = nn.Module()
    module.num_key_value_groups = 3
    own, _ = cpu_attention(module, *inputs, None, scaling=0.3)
    causal = length > 1
    theirs, _ = sdpa_attention_forward(module, *inputs, None, scaling=0.3, is_causal=causal)
    torch.testing.assert_close(own, theirs)
    gradient = torch.randn_like(own)
    for a, b in zip(
        torch.autograd.grad(own, inputs, gradient),
        torch.autograd.grad(theirs, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_mask_decides_what_is_seen():
    query, key, value = heads(5)
    mask = torch.zeros(3, 1, 5, 5, dtype=torch.bool)
    mask[..., 2] = True
    out, _ = cpu_attention(nn.Module(), query, key, value, mask)
    seen = value[:, :, 2].repeat_interleave(3, 1)[:, None].expand(3, 5, 6, 16)
    torch.testing.assert_close(out, seen)


@pytest.mark.parametrize("masked", [False, True])
def test_in_bfloat16_it_is_near_the_truth_under_autocast(masked):
    inputs = heads(9, dtype=torch.bfloat16)
    module = nn.Module()
    module.num_key_value_groups = 3
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril() if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        own, _ = cpu_attention(module, *inputs, mask)
    assert own.dtype == torch.bfloat16
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    truth, _ = sdpa_attention_forward(module, *exact, None)
    assert (own - truth).norm() < 0.01 * truth.norm()
    gradient = torch.randn_like(truth)
    for a, b in zip(
        torch.autograd.grad(own, inputs, gradient.bfloat16()),
        torch.autograd.grad(truth, exact, gradient),
        strict=True,
    ):
        assert (a - b).norm() < 0.02 * b.norm()


def test_causal_attention_keeps_nothing_but_its_inputs():
    inputs = heads(40)
    with kept_for_backward() as kept:
        cpu_attention(nn.Module(), *inputs, None)
    assert storage_bytes(kept).keys() == storage_bytes(inputs).keys()


def test_dropout_leaves_weights_out_in_training_only():
    torch.manual_seed(0)
    module = nn.Module()
    query = torch.randn(1, 1, 4, 8)
    value = torch.eye(4)[None, None]
    weights, _ = cpu_attention(module, query, query, value, None, dropout=0.5)
    assert (weights.squeeze().tril() == 0).sum() > 6  # those ahead, and some that are left out
    weights, _ = cpu_attention(module.eval(), query, query, value, None, dropout=0.5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 1))


def test_what_it_does_not_compute_is_refused():
    query = torch.randn(1, 1, 4, 8)
    with pytest.raises(ModelError, match=r"softcap.*attention=eager"):
        cpu_attention(nn.Module(), query, query, query, None, softcap=30.0)
