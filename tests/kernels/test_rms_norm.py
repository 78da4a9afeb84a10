"""The lean norm against torch's own."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from torch import nn

from llava_rad.kernels import rms_norm
from llava_rad.kernels.rms_norm import RMSNorm


def run(norm, x):
    """Output, and gradients of input and weight, in float32."""
    x = x.clone().requires_grad_()
    out = norm(x)
    out.backward(torch.cos(torch.arange(out.numel())).view(out.shape).to(out.dtype))
    return [t.detach().float() for t in (out, x.grad, norm.weight.grad)]


def pair(width, dtype=torch.float32):
    torch.manual_seed(0)
    weight = torch.rand(width) + 0.5
    theirs = nn.RMSNorm(width, eps=1e-5)
    theirs.weight.data = weight
    return RMSNorm(nn.Parameter(weight.to(dtype)), 1e-5), theirs


# Fewer rows than a block has, some blocks and a rest, heads as in Qwen3, no row at all.
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 100, 24), (2, 90, 3, 24), (0, 24)])
def test_output_and_gradients_are_those_of_torch(shape, monkeypatch):
    monkeypatch.setattr(rms_norm, "_BLOCK", 64 * 24)
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    own, theirs = pair(24)
    for found, expected in zip(run(own, x), run(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_transposed_output():
    own, theirs = pair(24)
    x = torch.randn(2, 70, 3, 24, generator=torch.Generator().manual_seed(1))
    given = torch.randn(2, 3, 70, 24, generator=torch.Generator().manual_seed(2))
    gradients = []
    for norm in (own, theirs):
        leaf = x.clone().requires_grad_()
        norm(leaf).transpose(1, 2).backward(given)
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_is_exact_but_for_rounding():
    x = torch.randn(150, 24, generator=torch.Generator().manual_seed(1)).bfloat16()
    own, theirs = pair(24, torch.bfloat16)
    theirs.weight.data = own.weight.data.float()
    for found, expected in zip(run(own, x), run(theirs, x.float()), strict=True):
        # Half a step of bfloat16 each: the output is rounded twice, the gradients' input too.
        assert (found - expected).norm() < 2**-8 * expected.norm()


def test_it_keeps_its_input_and_a_number_a_row():
    x = torch.randn(50, 24).bfloat16().requires_grad_()
    own, _ = pair(24, torch.bfloat16)
    with kept_for_backward() as tensors:
        own(x)
    kept = storage_bytes(tensors)
    assert kept.pop(x.untyped_storage().data_ptr()) == 50 * 24 * 2
    assert kept.pop(own.weight.untyped_storage().data_ptr())
    assert list(kept.values()) == [50 * 4]
