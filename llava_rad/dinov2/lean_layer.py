"""A transformer layer that keeps little for its backward pass.

transformers' layer lets autograd keep about 19 widths of every token, and more with the squares of
attention scores. This one keeps 10 (the inputs of its two branches, queries, keys and values, the
attended values, the MLP's hidden units before GELU) and computes norms, scores and GELU again.
LayerScale and the scale of the scores are folded into the weights before them, queries, keys and
values are one product, and a branch that stochastic depth drops for an image is not computed for
it. Results equal transformers', up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

# Images whose squares of scores a CPU holds at once.
_IMAGES = 16


class LeanLayer(nn.Module):
    """Stands in for transformers' layer, with its children and so with its names of parameters.

    Args:
        layer: of DINOv2, without or with registers.
        drop_path: share of the images that each branch leaves out in training, [0, 1).
    """

    def __init__(self, layer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        for name in ("norm1", "attention", "layer_scale1", "norm2", "mlp", "layer_scale2"):
            self.add_module(name, layer.get_submodule(name))
        self.drop_path = drop_path

    @staticmethod
    def suits(layer: Any) -> bool:
        """Tell whether a layer is of the kind that this one computes."""
        config = layer.attention.config
        plain = hasattr(layer.mlp, "fc1") and config.hidden_act == "gelu"
        return plain and config.attention_probs_dropout_prob == 0

    def forward(self, hidden: Tensor, attention_mask: None = None, **options: Any) -> Tensor:
        """Map tokens, ``[images, tokens, width]``, to tokens."""
        children: dict[str, Any] = dict(self.named_children())
        attention, mlp = children["attention"], children["mlp"]
        norm1, norm2 = children["norm1"], children["norm2"]
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        scale = attention.scaling
        bias = None
        if query.bias is not None:
            bias = torch.cat([query.bias * scale, key.bias, value.bias])
        hidden = _Attention.apply(
            hidden,
            self._kept(hidden),
            norm1.weight,
            norm1.bias,
            torch.cat([query.weight * scale, key.weight, value.weight]),
            bias,
            *_scaled(attention.o_proj, self.layer_scale1),
            norm1.eps,
            attention.num_attention_heads,
        )
        transformed: Tensor = _Perceptron.apply(
            hidden,
            self._kept(hidden),
            norm2.weight,
            norm2.bias,
            mlp.fc1.weight,
            mlp.fc1.bias,
            *_scaled(mlp.fc2, self.layer_scale2),
            norm2.eps,
        )
        return transformed

    def _kept(self, hidden: Tensor) -> list[int] | None:
        """Draw the images that a branch is computed for; None for all.

        Their number is fixed, as in DINOv2's own code, and with it the shapes.
        """
        if not (self.training and self.drop_path):
            return None
        images = len(hidden)
        # On the CPU, so that no device has to be waited for.
        drawn: list[int] = torch.randperm(images).tolist()
        return drawn[: max(1, round(images * (1 - self.drop_path)))]


def _scaled(product: Any, layer_scale: Any) -> tuple[Tensor, Tensor]:
    """Fold LayerScale into the product before it."""
    factor: Tensor = layer_scale.lambda1
    return product.weight * factor[:, None], product.bias * factor


class _Attention(torch.autograd.Function):
    """Tokens plus the output product of self-attention among their norms."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [images, tokens, width]
        kept: list[int] | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,  # [3 width, width]: scaled queries, keys, values
        bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor,
        eps: float,
        heads: int,
    ) -> Tensor:
        normed = _norm(_part(x, kept), norm_weight, norm_bias, eps)[0]
        projected = linear(normed, weight, bias)
        attended = _attend(projected, heads)
        ctx.save_for_backward(
            x, norm_weight, norm_bias, weight, bias, out_weight, projected, attended
        )
        ctx.kept, ctx.eps, ctx.heads = kept, eps, heads
        return _sum(x, linear(attended, out_weight, out_bias), kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, bias, out_weight, projected, attended = ctx.saved_tensors
        kept = ctx.kept
        of_out = _part(gradient, kept)
        if kept is not None:
            of_out *= len(x) / len(kept)
        of_attended, *of_out_product = _linear_backward(of_out, attended, out_weight)
        of_projected = _attention_backward(projected, of_attended, ctx.heads)
        x = _part(x, kept)
        normed, *statistics = _norm(x, norm_weight, norm_bias, ctx.eps)
        of_normed, of_weight, of_bias = _linear_backward(of_projected, normed, weight)
        of_x, *of_norm = torch.ops.aten.native_layer_norm_backward(
            of_normed, x, x.shape[-1:], *statistics, norm_weight, norm_bias, [True] * 3
        )
        return (
            _sum(gradient, of_x, kept, scaled=False),
            None,
            *of_norm,
            *(of_weight, None if bias is None else of_bias),
            *of_out_product,
            *(None, None),
        )


class _Perceptron(torch.autograd.Function):
    """Tokens plus two products of their norms with GELU in between."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [images, tokens, width]
        kept: list[int] | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,  # [units, width]
        bias: Tensor,
        out_weight: Tensor,  # [width, units]
        out_bias: Tensor,
        eps: float,
    ) -> Tensor:
        units = linear(_norm(_part(x, kept), norm_weight, norm_bias, eps)[0], weight, bias)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, out_weight, units)
        ctx.kept, ctx.eps = kept, eps
        return _sum(x, linear(gelu(units), out_weight, out_bias), kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, out_weight, units = ctx.saved_tensors
        kept = ctx.kept
        of_out = _part(gradient, kept)
        if kept is not None:
            of_out *= len(x) / len(kept)
        of_active, *of_out_product = _linear_backward(of_out, gelu(units), out_weight)
        of_units = torch.ops.aten.gelu_backward(of_active, units)
        x = _part(x, kept)
        normed, *statistics = _norm(x, norm_weight, norm_bias, ctx.eps)
        of_normed, *of_product = _linear_backward(of_units, normed, weight)
        of_x, *of_norm = torch.ops.aten.native_layer_norm_backward(
            of_normed, x, x.shape[-1:], *statistics, norm_weight, norm_bias, [True] * 3
        )
        return (
            _sum(gradient, of_x, kept, scaled=False),
            None,
            *of_norm,
            *of_product,
            *of_out_product,
            None,
        )


def _part(x: Tensor, kept: list[int] | None) -> Tensor:
    """The kept images."""
    if kept is None:
        return x
    images = x.unbind(0)
    return torch.stack([images[number] for number in kept])


def _sum(x: Tensor, branch: Tensor, kept: list[int] | None, scaled: bool = True) -> Tensor:
    """``x`` plus the branch of the kept images, scaled by their share; the branch is used up."""
    if kept is None:
        return branch.add_(x)
    out = x.clone()
    images = out.unbind(0)
    factor = len(x) / len(kept) if scaled else 1
    torch._foreach_add_([images[number] for number in kept], branch.unbind(0), alpha=factor)
    return out


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised tokens, and the statistics that the norm's backward pass needs."""
    return torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)


def _linear_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a product's input, weight and bias."""
    rows = gradient.flatten(0, 1)
    of_inputs = (rows @ weight).unflatten(0, gradient.shape[:2])
    return of_inputs, rows.T @ inputs.flatten(0, 1), rows.sum(0)


def _by_head(projected: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, ``[images, heads, tokens, width of a head]``, as views."""
    query, key, value = projected.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _attend(projected: Tensor, heads: int) -> Tensor:
    """Attended values, ``[images, tokens, width]``."""
    attended = scaled_dot_product_attention(*_by_head(projected, heads), scale=1.0)
    return attended.transpose(1, 2).flatten(2)


def _attention_backward(projected: Tensor, of_attended: Tensor, heads: int) -> Tensor:
    """Gradient of scaled queries, keys and values, as ``projected``."""
    if projected.device.type != "cpu":
        with torch.enable_grad():  # fused, and computed anew: no squares
            again = projected.detach().requires_grad_()
            attended = _attend(again, heads)
        return torch.autograd.grad(attended, again, of_attended)[0]
    # torch's fused backward pass is slow on a CPU; the squares of a few images are cheaper.
    of_projected = torch.empty_like(projected)
    for inputs, gradient, result in zip(
        *(tensor.split(_IMAGES) for tensor in (projected, of_attended, of_projected)), strict=True
    ):
        query, key, value = _by_head(inputs, heads)
        of_query, of_key, of_value = _by_head(result, heads)
        gradient = gradient.unflatten(2, (heads, -1)).transpose(1, 2)
        weights = (query @ key.transpose(2, 3)).softmax(-1)
        of_value.copy_(weights.transpose(2, 3) @ gradient)
        of_scores = torch.ops.aten._softmax_backward_data(
            gradient @ value.transpose(2, 3), weights, -1, weights.dtype
        )
        of_query.copy_(of_scores @ key)
        of_key.copy_(of_scores.transpose(2, 3) @ query)
    return of_projected
