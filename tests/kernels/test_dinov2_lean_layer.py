"""The layer of pretraining, beside transformers' own."""

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from llava_rad.dinov2.backbone import prepare
from llava_rad.errors import ConfigError
from llava_rad.kernels import lean_layer
from llava_rad.kernels.lean_layer import LeanLayer
from llava_rad.kernels.vit_layer import PatchMasks

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "patch_size": 14,
    "image_size": 56,
}
KINDS = {
    "plain": (Dinov2Model, Dinov2Config, {}),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, {"num_register_tokens": 2}),
    "no query bias": (Dinov2Model, Dinov2Config, {"qkv_bias": False}),
}


def _pair(kind, **settings):
    """Two equal backbones with large random parameters; the second is prepared."""
    model, config, own = KINDS[kind]
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = model(config(**SIZES, **own, **settings))
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        pair.append(backbone.train())
    prepare(pair[1])
    return pair


def _gradients(backbone, images, masks):
    tokens = backbone(images, bool_masked_pos=masks).last_hidden_state
    tokens.float().mul(
        torch.linspace(-1, 1, tokens[0].numel()).view(tokens[0].shape)
    ).sum().backward()
    return tokens.detach(), {name: p.grad for name, p in backbone.named_parameters()}


@pytest.mark.parametrize("at_once", ["all", "a few images"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_equal_transformers(kind, at_once, monkeypatch):
    if at_once != "all":
        monkeypatch.setattr(lean_layer, "_BYTES", 4 * 4 * 15 * 48 * 4)  # 4 of 15 tokens at most
    theirs, own = _pair(kind)
    assert own.state_dict().keys() == theirs.state_dict().keys()
    # More images than the squares of one turn, and another size than the position table's.
    gray = torch.randn(19, 1, 42, 56)
    masks = torch.rand(19, 12) < 0.3
    expected, of_theirs = _gradients(theirs, gray.expand(-1, 3, -1, -1), masks)
    tokens, of_own = _gradients(own, gray, masks)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in of_theirs.values())
    for name, gradient in of_theirs.items():
        torch.testing.assert_close(
            of_own[name],
            gradient,
            atol=1e-6 * largest,
            rtol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_bfloat16_is_as_near_to_float32_as_transformers():
    gray, masks = torch.randn(6, 1, 56, 56), torch.rand(6, 16) < 0.3
    exact, of_exact = _gradients(_pair("plain")[1], gray, masks)
    errors = []
    for backbone, images in zip(_pair("plain"), (gray.expand(-1, 3, -1, -1), gray), strict=True):
        tokens, gradients = _gradients(backbone.bfloat16(), images.bfloat16(), masks)
        errors.append(
            [float((tokens - exact).norm() / exact.norm())]
            + [float((g - of_exact[n]).norm() / of_exact[n].norm()) for n, g in gradients.items()]
        )
    theirs, own = (torch.tensor(found) for found in errors)
    assert float(own[0]) < 1.2 * float(theirs[0])
    assert float(own.median()) < 1.2 * float(theirs.median())


def test_half_as_much_is_kept_for_the_backward_pass():
    kept = []
    for backbone, channels in zip(_pair("plain", mlp_ratio=4), (3, 1), strict=True):
        backbone.set_attn_implementation("eager")
        with kept_for_backward() as tensors:
            backbone(torch.randn(64, channels, 56, 56))
        kept.append(sum(storage_bytes(tensors, without=backbone.parameters()).values()))
    assert kept[1] < 0.6 * kept[0]


class TestStochasticDepth:
    @pytest.fixture
    def layer(self):
        torch.manual_seed(0)
        whole = Dinov2Model(Dinov2Config(**SIZES, layerscale_value=1.0)).encoder.layer[0]
        return LeanLayer(whole, drop_path=0.4).train()

    def test_each_branch_leaves_out_its_share_and_scales_the_rest(self, layer):
        tokens = torch.randn(10, 5, 48)
        torch.nn.init.zeros_(layer.layer_scale2.lambda1)  # one branch alone
        dropped = layer(tokens)
        whole = layer.eval()(tokens)
        kept = (dropped != tokens).flatten(1).any(1)
        assert int(kept.sum()) == 6
        torch.testing.assert_close(dropped[kept], tokens[kept] + (whole - tokens)[kept] * (10 / 6))

    @pytest.mark.parametrize("images", [3, 10])
    def test_gradients_are_those_of_the_written_out_branches(self, layer, images):
        torch.manual_seed(1)
        draws = []
        draw = layer._draw_images
        layer._draw_images = lambda images: draws.append(draw(images)) or draws[-1]
        tokens = torch.randn(images, 5, 48, requires_grad=True)
        weights = torch.randn(images, 5, 48)
        (layer(tokens) * weights).sum().backward()
        found = {name: p.grad.clone() for name, p in layer.named_parameters()}
        found["tokens"] = tokens.grad.clone()

        layer.zero_grad()
        tokens.grad = None
        masks = [
            torch.zeros(images, 1, 1).index_fill_(0, draws[0].order[some], 1 / 0.6)
            for some in (draws[0].attended, draws[0].transformed)
        ]
        attended, _ = layer.attention(layer.norm1(tokens))
        hidden = tokens + masks[0] * layer.layer_scale1(attended)
        hidden = hidden + masks[1] * layer.layer_scale2(layer.mlp(layer.norm2(hidden)))
        (hidden * weights).sum().backward()
        expected = {name: p.grad for name, p in layer.named_parameters()} | {"tokens": tokens.grad}
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("images", [1, 3])
    def test_a_branch_that_is_left_out_has_a_gradient_of_zero(self, layer, images):
        layer.drop_path = 0.999
        torch.manual_seed(0)
        hidden = torch.randn(images, 5, 48)
        added = layer(hidden)
        torch.testing.assert_close(added, hidden)
        added.sum().backward()
        assert all((p.grad == 0).all() for p in layer.parameters())

    def test_branches_draw_their_images_independently(self, layer):
        draws = [layer._draw_images(10) for _ in range(4000)]
        kept = torch.zeros(2, 4000, 10)
        for number, draw in enumerate(draws):
            kept[0, number, draw.order[draw.attended]] = 1
            kept[1, number, draw.order[draw.transformed]] = 1
        assert (kept.sum(-1) == 6).all()
        # 0.6 of the time by itself, 0.36 with any image of the other branch; 5 standard errors.
        torch.testing.assert_close(kept.mean(1), torch.full((2, 10), 0.6), atol=0.04, rtol=0)
        both = kept[0].T @ kept[1] / 4000
        torch.testing.assert_close(both, torch.full((10, 10), 0.36), atol=0.04, rtol=0)


class TestWantedTokens:
    """What the last layer computes for a few tokens is what it computes for all."""

    def test_gradients_equal_those_of_all_tokens(self):
        backbone = _pair("plain")[1]
        images, wanted = torch.randn(5, 1, 56, 56), torch.rand(5, 16) < 0.3
        few_patches = PatchMasks.of(wanted)
        weights = torch.randn(5 + int(wanted.sum()), 48)
        results = []
        for few in (True, False):
            backbone.zero_grad()
            if few:
                tokens = backbone(images, wanted=few_patches).last_hidden_state[0]
            else:
                everything = backbone(images).last_hidden_state
                tokens = torch.cat([everything[:, 0], everything[:, 1:][wanted]])
            (tokens * weights).sum().backward()
            results.append([tokens] + [p.grad for p in backbone.parameters() if p.grad is not None])
        for few, everything in zip(*results, strict=True):
            torch.testing.assert_close(few, everything, atol=2e-4, rtol=1e-4)


def test_the_gated_layers_of_giant_models_equal_transformers():
    theirs, own = _pair("plain", use_swiglu_ffn=True)
    gray, masks = torch.randn(4, 1, 56, 56), torch.rand(4, 16) < 0.3
    expected, of_theirs = _gradients(theirs, gray.expand(-1, 3, -1, -1), masks)
    tokens, of_own = _gradients(own, gray, masks)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in of_theirs.values())
    for name, gradient in of_theirs.items():
        torch.testing.assert_close(of_own[name], gradient, atol=1e-6 * largest, rtol=1e-4)


def test_dropout_of_attention_is_refused():
    with pytest.raises(ConfigError, match="dropout of attention weights"):
        prepare(Dinov2Model(Dinov2Config(**SIZES, attention_probs_dropout_prob=0.1)))


def test_gray_images_are_embedded_as_three_equal_channels():
    theirs, own = _pair("plain")
    # 60 pixels hold four patches and a rest.
    gray = torch.randn(2, 1, 56, 60)
    expected = theirs.embeddings.patch_embeddings(gray.expand(-1, 3, -1, -1))
    embed = own.embeddings.patch_embeddings
    torch.testing.assert_close(embed(gray), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embed(gray.expand(-1, 3, -1, -1)), expected)
