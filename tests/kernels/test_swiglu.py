"""The gated unit against torch's operations."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward
from torch.nn.functional import silu

from llava_rad.kernels import swiglu as unit
from llava_rad.kernels.swiglu import swiglu


def run(function, gate, up):
    leaves = [t.detach().clone().requires_grad_() for t in (gate, up)]
    out = function(*leaves)
    out.backward(torch.cos(torch.arange(out.numel())).view(out.shape).to(out.dtype))
    return [t.detach().float() for t in (out, *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("block", [1, 24 * 7, 2**17])
@pytest.mark.parametrize("shape", [(24,), (2, 17, 24)])
def test_output_and_gradients_are_those_of_torch(monkeypatch, block, shape):
    monkeypatch.setattr(unit, "BLOCK", block)
    gate, up = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    given = run(swiglu, gate, up)
    for found, expected in zip(given, run(lambda a, b: silu(a) * b, gate, up), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_halves_of_one_tensor():
    joined = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0))
    results = []
    for function in (swiglu, lambda a, b: silu(a) * b):
        leaf = joined.clone().requires_grad_()
        function(*leaf.chunk(2, -1)).square().sum().backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


def test_a_gradient_that_others_hold_is_not_changed():
    gate, up = torch.randn(2, 3, 24, requires_grad=True).unbind()
    given = torch.randn(3, 24)
    before = given.clone()
    swiglu(gate, up).backward(given)
    assert torch.equal(given, before)


def test_it_keeps_its_inputs_alone():
    gate, up = (torch.randn(3, 24, requires_grad=True) for _ in range(2))
    with kept_for_backward() as kept:
        swiglu(gate, up)
    assert [tensor.data_ptr() for tensor in kept] == [gate.data_ptr(), up.data_ptr()]
