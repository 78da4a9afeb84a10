"""The lean LoRA layer against peft's own."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from helpers.tiny_models import FAMILIES, tiny_llm
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn
from torch.nn.functional import silu

from llava_rad.kernels.choice import lora_layers
from llava_rad.kernels.lora_linear import LoraLinear
from llava_rad.model.lora import LoraSettings, attach_lora


def layer(kind, *, bias=True, dropout=0.0, dtype=torch.float32, **options):
    """A layer with an update that is not zero; equal for equal arguments."""
    torch.manual_seed(0)
    base = nn.Linear(24, 40, bias=bias, dtype=dtype)
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, **options)
    made = kind(base, "default", config=config, r=4, lora_alpha=12)
    made.lora_B["default"].weight.data.normal_(0, 0.2)
    base.requires_grad_(False)
    return made


def run(made, x, *, precision=None, seed=1, trained=None):
    """Output and gradients of a step; every gradient in float32."""
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = made(x)
    torch.manual_seed(2)
    out.backward(torch.randn_like(out, dtype=torch.float32).to(out.dtype))
    of_lora = [p.grad for p in (trained or made).parameters() if p.requires_grad]
    assert len(of_lora) == 2
    return [t.detach().float() for t in (out, x.grad, *of_lora)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(3, 7, 24), (24,), (5, 24)])
def test_output_and_gradients_are_those_of_peft(bias, dropout, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    options = {"bias": bias, "dropout": dropout}
    for own, theirs in zip(
        run(layer(LoraLinear, **options), x), run(layer(Linear, **options), x), strict=True
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_as_near_to_the_truth_as_peft(frozen):
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(3)).bfloat16()

    def made(kind, dtype):
        found = layer(kind, dtype=torch.float32)
        found.base_layer.weight.data = found.base_layer.weight.data.bfloat16().to(dtype)
        found.base_layer.bias.data = found.base_layer.bias.data.bfloat16().to(dtype)
        return found

    truth = run(made(Linear, torch.float32), x.float())
    own = run(made(LoraLinear, frozen), x, precision="bf16")
    theirs = run(made(Linear, frozen), x, precision="bf16")
    for a, b, exact in zip(own, theirs, truth, strict=True):
        assert (a - exact).norm() < 1.2 * (b - exact).norm()
        assert (a - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_below_a_gated_unit_it_gives_what_peft_gives_of_the_product(dropout, precision):
    gate, up = torch.randn(2, 3, 7, 24, generator=torch.Generator().manual_seed(3))
    options = {"dropout": dropout, "dtype": torch.bfloat16 if precision else torch.float32}
    own, theirs = layer(LoraLinear, **options), layer(Linear, **options)
    if precision:
        gate, up = gate.bfloat16(), up.bfloat16()
    both = torch.stack((gate, up))
    found = run(lambda x: own.gated(x[0], x[1]), both, precision=precision, trained=own)
    expected = run(lambda x: theirs(silu(x[0]) * x[1]), both, precision=precision, trained=theirs)
    rounding = 0.02 if precision else 1e-5
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() < rounding * b.norm()


def test_the_product_of_a_gated_unit_is_not_kept():
    made = layer(LoraLinear)
    gate, up = (torch.randn(50, 24, requires_grad=True) for _ in range(2))
    with kept_for_backward() as kept:
        made.gated(gate, up)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() == gate.numel()}
    assert large == {gate.data_ptr(), up.data_ptr()}


def test_what_it_does_not_cover_is_left_to_peft():
    x = torch.randn(5, 24)
    plain = layer(LoraLinear)
    base = plain.base_layer(x)
    updated = plain(x)
    assert not torch.allclose(base, updated, atol=1e-2)
    plain.merge()
    torch.testing.assert_close(plain(x), updated)
    plain.unmerge()
    plain.enable_adapters(False)
    torch.testing.assert_close(plain(x), base)
    for options in ({"use_dora": True}, {"lora_bias": True}):
        own, theirs = layer(LoraLinear, **options), layer(Linear, **options)
        torch.testing.assert_close(own(x), theirs(x))
        torch.testing.assert_close(own.gated(x, -x), theirs(silu(x) * -x))


def test_the_input_is_kept_once_for_all_layers_that_read_it():
    layers = [layer(LoraLinear, dtype=torch.bfloat16).float() for _ in range(3)]
    x = torch.randn(50, 24, requires_grad=True)
    with kept_for_backward() as kept:
        sum(made(x).sum() for made in layers).backward()
    inputs = [tensor for tensor in kept if tensor.numel() == x.numel()]
    assert storage_bytes(inputs).keys() == {x.untyped_storage().data_ptr()}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_attach_lora_uses_it_for_every_layer(family):
    settings = LoraSettings(r=2, alpha=4, dropout=0.0)
    llm = attach_lora(tiny_llm(family, 100), settings, lora_layers("cpu"))
    layers = [m for m in llm.modules() if isinstance(m, Linear)]
    assert layers and all(type(m) is LoraLinear for m in layers)
