"""Which layers a training gets, by setting, device and layer."""

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_models import tiny_llm
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from llava_rad.dinov2.backbone import prepare
from llava_rad.errors import ConfigError
from llava_rad.kernels import choice
from llava_rad.kernels.lean_layer import LeanLayer
from llava_rad.kernels.lora_linear import LoraLinear
from llava_rad.kernels.vit_layer import PatchMasks, VitLayer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def said_anew():
    choice._say_unknown.cache_clear()


@pytest.mark.parametrize(
    ("asked", "device", "liger", "chosen"),
    [
        ("auto", CPU, True, "cpu"),
        ("auto", GPU, True, "liger"),
        ("auto", GPU, False, "plain"),
        ("auto", torch.device("mps"), True, "plain"),
        ("plain", CPU, True, "plain"),
        ("cpu", CPU, False, "cpu"),
        ("liger", GPU, True, "liger"),
    ],
)
def test_what_is_asked_for_on_a_device(monkeypatch, asked, device, liger, chosen):
    monkeypatch.setattr(choice, "has_liger", lambda: liger)
    assert choice.choose(asked, device) == chosen


@pytest.mark.parametrize(
    ("asked", "device", "liger", "kind"),
    [
        ("liger", GPU, False, "no_liger"),
        ("liger", CPU, True, "no_liger"),
        ("cpu", GPU, True, "no_cpu"),
    ],
)
def test_what_does_not_run_there_is_an_error(monkeypatch, asked, device, liger, kind):
    monkeypatch.setattr(choice, "has_liger", lambda: liger)
    with pytest.raises(ConfigError) as caught:
        choice.choose(asked, device)
    assert caught.value.kind == kind


def test_plain_changes_nothing_of_an_llm():
    llm = tiny_llm("llama", 100)
    before = {name: type(module) for name, module in llm.named_modules()}
    choice.apply_to_llm(llm, "plain")
    assert {name: type(module) for name, module in llm.named_modules()} == before
    assert choice.attention("plain") is None and choice.lora_layers("plain") == {}
    choice.apply_to_llm(llm, "cpu")
    assert {name: type(module) for name, module in llm.named_modules()} != before
    assert choice.attention("cpu") and choice.lora_layers("cpu") == {nn.Linear: LoraLinear}


def test_names_that_are_exchanged_in_a_module_are_put_back():
    module = SimpleNamespace(norm="theirs", loss="theirs")
    with choice._left_as_it_was(module):
        module.norm = "fused"
    assert vars(module) == {"norm": "theirs", "loss": "theirs"}


def backbone():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=56,
        layerscale_value=1.0,
    )
    return Dinov2Model(config)


def gradients(model, loss):
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_plain_layer_computes_what_transformers_does():
    theirs, own = backbone(), prepare(backbone(), 0.0, "plain")
    assert all(type(layer) is VitLayer for layer in own.encoder.layer)
    assert own.state_dict().keys() == theirs.state_dict().keys()
    images, chosen = torch.randn(3, 1, 56, 56), torch.rand(3, 16) < 0.4
    masks = PatchMasks.of(chosen)
    found = own(images, bool_masked_pos=chosen, wanted=masks).last_hidden_state[0]
    tokens = theirs(images.expand(-1, 3, -1, -1), bool_masked_pos=chosen).last_hidden_state
    expected = torch.cat([tokens[:, 0], tokens[:, 1:][chosen]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    of_theirs = gradients(theirs, (expected * weights).sum())
    of_own = gradients(own, (found * weights).sum())
    largest = max(float(gradient.abs().max()) for gradient in of_theirs.values())
    for name, gradient in of_theirs.items():
        torch.testing.assert_close(of_own[name], gradient, atol=1e-6 * largest, rtol=1e-4)


@pytest.mark.parametrize("kind", [VitLayer, LeanLayer])
@pytest.mark.parametrize("images", [1, 2, 10])
def test_stochastic_depth_leaves_out_its_share_and_scales_the_rest(kind, images):
    layer = kind(backbone().encoder.layer[0], drop_path=0.4).train()
    nn.init.zeros_(layer.layer_scale2.lambda1)  # one branch alone
    hidden = torch.randn(images, 5, 48)
    whole = layer.eval()(hidden) - hidden
    layer.train()
    shares = []
    for _ in range(200 // images):
        added = layer(hidden) - hidden
        kept = added.flatten(1).any(1)
        torch.testing.assert_close(added[kept], whole[kept] / 0.6, atol=1e-5, rtol=1e-4)
        shares.append(float(kept.float().mean()))
    if images == 10:  # the number is fixed where it meets the rate
        assert shares == pytest.approx([0.6] * len(shares))
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.18)  # 5 standard errors


@pytest.mark.parametrize("kind", [VitLayer, LeanLayer])
def test_the_wanted_tokens_have_the_stochastic_depth_of_their_images(kind):
    layer = kind(backbone().encoder.layer[0], drop_path=0.5, is_last=True).train()
    for images in (3, 8):  # drawn one by one, and a fixed number
        hidden, wanted = torch.randn(images, 5, 48), torch.rand(images, 4) < 0.5
        torch.manual_seed(1)
        everything = layer(hidden)
        torch.manual_seed(1)
        few = layer(hidden, wanted=PatchMasks.of(wanted))[0]
        expected = torch.cat([everything[:, 0], everything[:, 1:][wanted]])
        torch.testing.assert_close(few, expected)


class OtherAttention(nn.Module):
    """Computes what transformers' does, with other names."""

    def __init__(self, attention):
        super().__init__()
        self.config, self.inner = attention.config, attention

    def forward(self, hidden):
        return self.inner(hidden)


class OtherLayer(nn.Module):
    """Another layer altogether."""

    def __init__(self, layer):
        super().__init__()
        self.block = layer

    def forward(self, hidden):
        return (self.block(hidden),)


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
def test_a_layer_without_the_known_parts_stays_whole_which_is_said_once(kernels, caplog):
    theirs, other = backbone(), backbone()
    layers = other.encoder.layer
    for number, layer in enumerate(layers):
        layers[number] = OtherLayer(layer)
    names = set(other.state_dict())
    with caplog.at_level(logging.WARNING):
        own = prepare(other, 0.0, kernels)
    assert [record.args[0] for record in caplog.records] == ["OtherLayer"]
    assert set(own.state_dict()) == names
    images, chosen = torch.randn(3, 1, 56, 56), torch.rand(3, 16) < 0.4
    found = own(images, wanted=PatchMasks.of(chosen)).last_hidden_state[0]
    tokens = theirs(images.expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(found, torch.cat([tokens[:, 0], tokens[:, 1:][chosen]]))
    with pytest.raises(ConfigError, match="OtherLayer are not known"):
        choice.backbone_layer(OtherLayer(nn.Identity()), kernels, 0.1, False, False)


def test_attention_of_other_names_gets_the_plain_layer_on_a_cpu(caplog):
    layer = backbone().encoder.layer[0]
    assert type(choice.backbone_layer(layer, "cpu", 0.0, False, False)) is LeanLayer
    hidden = torch.randn(2, 5, 48)
    expected = layer(hidden)
    layer.attention = OtherAttention(layer.attention)
    with caplog.at_level(logging.WARNING):
        found = choice.backbone_layer(layer, "cpu", 0.0, False, False)
    assert type(found) is VitLayer and len(caplog.records) == 1
    torch.testing.assert_close(found(hidden), expected)
