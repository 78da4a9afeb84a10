"""The layer of the pretraining backbone for a CPU, which keeps little for its backward pass.

transformers' layer lets autograd keep about 19 widths of every token, and more with the squares of
attention scores. This one keeps 10 (the inputs of its two branches, queries, keys and values, the
attended values, the MLP's hidden units before GELU) and computes norms, scores and GELU again.
LayerScale and the scale of the scores are folded into the weights before them, queries, keys and
values are one product, a branch that stochastic depth drops for an image is not computed for it,
and the last layer's MLP is computed only for the tokens that are wanted of it. Results equal
transformers', up to rounding.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from llava_rad.kernels.vit_layer import PatchMasks, VitLayer, has_its_parts, kept_images

# Tokens whose attention goes backward at once, so that the squares stay in its cache.
_TOKENS = 1024
# Size of an MLP's hidden units that are made at once. The C library hands blocks over
# 32 MiB back to the system, which clears them anew every time.
_BYTES = 2**24


def can_be_lean(layer: nn.Module) -> bool:
    """Whether a layer of transformers has the parts that :class:`LeanLayer` takes over."""
    if not has_its_parts(layer):
        return False
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "scaling", "num_attention_heads")
    return all(hasattr(layer.get_submodule("attention"), name) for name in parts)


class LeanLayer(VitLayer):
    """The same for training on a CPU.

    Args:
        layer: one that :func:`can_be_lean`.
        drop_path: as of :class:`VitLayer`.
        is_last: as of :class:`VitLayer`.
    """

    def __init__(self, layer: nn.Module, drop_path: float = 0.0, is_last: bool = False) -> None:
        super().__init__(layer, drop_path, is_last)
        config: Any = self.get_submodule("attention").config
        self._has_gelu = hasattr(self.mlp, "fc1") and config.hidden_act == "gelu"

    def forward(
        self,
        hidden: Tensor,
        attention_mask: None = None,
        wanted: PatchMasks | None = None,
        **options: Any,
    ) -> Tensor:
        """As :meth:`VitLayer.forward`."""
        parts: dict[str, Any] = dict(self.named_children())
        attention, mlp, norm1, norm2 = (parts[n] for n in ("attention", "mlp", "norm1", "norm2"))
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        draw = self._draw_images(len(hidden))
        if draw is not None:
            hidden = _Reorder.apply(hidden, draw.order, draw.back)
        scale = attention.scaling
        bias = None
        if query.bias is not None:
            bias = torch.cat([query.bias * scale, key.bias, value.bias])
        hidden = _Branch.apply(
            hidden,
            slice(None) if draw is None else draw.attended,
            attention.num_attention_heads,
            norm1.eps,
            norm1.weight,
            norm1.bias,
            torch.cat([query.weight * scale, key.weight, value.weight]),
            bias,
            *_scaled(attention.o_proj, self.layer_scale1, draw and draw.attention_factor),
        )
        if not self.is_last:
            wanted = None
        if wanted is None and self._has_gelu:
            hidden = _Branch.apply(
                hidden,
                slice(None) if draw is None else draw.transformed,
                None,
                norm2.eps,
                norm2.weight,
                norm2.bias,
                mlp.fc1.weight,
                mlp.fc1.bias,
                *_scaled(mlp.fc2, self.layer_scale2, draw and draw.mlp_factor),
            )
            return _back(hidden, draw)
        # Few tokens, or DINOv2-giant's gated MLP: autograd may keep what it likes.
        hidden = _back(hidden, draw)
        share = torch.ones(len(hidden), dtype=hidden.dtype)
        if draw is not None:
            share.zero_()[draw.order[draw.transformed]] = draw.mlp_factor
        share = share[:, None].expand(hidden.shape[:2])
        if wanted is not None:
            hidden, share = (torch.cat([x[:, 0], wanted.take(x)])[None] for x in (hidden, share))
        added: Tensor = hidden + share[..., None] * parts["layer_scale2"](mlp(norm2(hidden)))
        return added

    def _draw_images(self, images: int) -> "_Draw | None":
        """Draw the images that each branch is computed for; None: both for all."""
        if not (self.training and self.drop_path):
            return None
        kept = kept_images(images, self.drop_path)
        if kept is None:
            drawn = (torch.rand(2, images) >= self.drop_path).long()
            factors = [bool(row.any()) / (1 - self.drop_path) for row in drawn]
            # A branch that is left out by all has a gradient of zero, which DDP waits for.
            drawn[:, 0] |= ~drawn.any(1)
        else:
            drawn = torch.zeros(2, images, dtype=torch.long)
            for row in drawn:
                row[torch.randperm(images)[:kept]] = 1
            factors = [images / kept] * 2
        attended, transformed = drawn
        # The first branch's own, those of both, the second's own, those of none: each branch's
        # images lie side by side.
        order = torch.where(attended == 1, transformed, 3 - transformed).argsort(stable=True)
        of_attention, of_mlp = drawn.sum(1).tolist()
        first = of_attention - int((attended & transformed).sum())
        attends, transforms = slice(0, of_attention), slice(first, first + of_mlp)
        return _Draw(order, order.argsort(), attends, transforms, *factors)


class _Draw(NamedTuple):
    """Images of a layer's branches.

    Attributes:
        order: in which the images lie, ``[images]``.
        back: the order that undoes it.
        attended, transformed: those of attention and MLP, among them in order.
        attention_factor, mlp_factor: of the branches, for those that were left out.
    """

    order: Tensor
    back: Tensor
    attended: slice
    transformed: slice
    attention_factor: float
    mlp_factor: float


def _back(hidden: Tensor, draw: _Draw | None) -> Tensor:
    """Put images into the order that they came in."""
    if draw is None:
        return hidden
    restored: Tensor = _Reorder.apply(hidden, draw.back, draw.order)
    return restored


def _scaled(product: Any, layer_scale: Any, factor: float | None) -> tuple[Tensor, Tensor]:
    """Fold LayerScale, and the factor of stochastic depth, into the product before them."""
    scale: Tensor = layer_scale.lambda1
    if factor is not None:
        scale = scale * factor
    return product.weight * scale[:, None], product.bias * scale


class _Reorder(torch.autograd.Function):
    """Images in another order; autograd would add where it is enough to copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.back), None, None


class _Branch(torch.autograd.Function):
    """Tokens plus two products of their norms, with attention or GELU in between."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [images, tokens, width]
        images: slice,
        heads: int | None,  # of attention, None for GELU
        eps: float,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,  # [inner, width]; of attention scaled queries, keys, values
        bias: Tensor | None,
        out_weight: Tensor,  # [width, inner], of attention [width, width]
        out_bias: Tensor,
    ) -> Tensor:
        out, kept = _beside(x, images), []
        for group in _groups(x, images):
            inner = linear(_norm(x[group], norm_weight, norm_bias, eps)[0], weight, bias)
            active = _attend(inner, heads) if heads else gelu(inner)
            torch.add(x[group], linear(active, out_weight, out_bias), out=out[group])
            # GELU is computed again, attended values are not.
            kept += [inner, active if heads else None]
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias, out_weight, *kept)
        ctx.images, ctx.heads, ctx.eps = images, heads, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, bias, out_weight, *kept = ctx.saved_tensors
        of_x, sums = _beside(gradient, ctx.images), _Sums()
        for group, inner, active in zip(_groups(x, ctx.images), kept[::2], kept[1::2], strict=True):
            active = gelu(inner) if active is None else active
            of_active, *of_out = _linear_backward(gradient[group], active, out_weight)
            if ctx.heads:
                of_inner = _attention_backward(inner, of_active, ctx.heads)
            else:
                of_inner = torch.ops.aten.gelu_backward(of_active, inner)
            normed, *statistics = _norm(x[group], norm_weight, norm_bias, ctx.eps)
            of_normed, *of_in = _linear_backward(of_inner, normed, weight)
            of_branch, *of_norm = torch.ops.aten.native_layer_norm_backward(
                of_normed, x[group], x.shape[-1:], *statistics, norm_weight, norm_bias, [True] * 3
            )
            torch.add(gradient[group], of_branch, out=of_x[group])
            sums.add(*of_norm, *of_in, *of_out)
        of_norm_weight, of_norm_bias, of_weight, of_bias, *of_out = sums
        of_parameters = (of_norm_weight, of_norm_bias, of_weight, None if bias is None else of_bias)
        return of_x, None, None, None, *of_parameters, *of_out


class _Sums(list[Tensor]):
    """Gradients of parameters, summed over groups in float32."""

    def add(self, *gradients: Tensor) -> None:
        """Add those of one group."""
        if self:
            self[:] = [
                total.float().add_(gradient)
                for total, gradient in zip(self, gradients, strict=True)
            ]
        else:
            self[:] = gradients


def _groups(x: Tensor, images: slice) -> list[slice]:
    """Images that go through a branch together: so few that memory is used again."""
    start, stop, _ = images.indices(len(x))
    size = max(1, _BYTES // (4 * x[0].nbytes))
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _beside(x: Tensor, images: slice) -> Tensor:
    """A copy of ``x`` in which some images are still to be filled in."""
    start, stop, _ = images.indices(len(x))
    out = torch.empty_like(x)
    out[:start] = x[:start]
    out[stop:] = x[stop:]
    return out


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised tokens, and the statistics that the norm's backward pass needs."""
    return torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)


def _linear_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a product's input, weight and bias."""
    rows, inputs = gradient.flatten(0, 1), inputs.flatten(0, 1)
    of_inputs = (rows @ weight).unflatten(0, gradient.shape[:2])
    # To transpose the narrower factor takes less time than its product takes to read columns.
    if rows.shape[1] <= inputs.shape[1]:
        of_weight = _rows_first(rows) @ inputs
    else:
        of_weight = (_rows_first(inputs) @ rows).T
    return of_inputs, of_weight, rows.sum(0)


def _rows_first(x: Tensor) -> Tensor:
    """Transpose; in memory too, for bfloat16."""
    return x.T.contiguous() if x.dtype == torch.bfloat16 else x.T


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
    # torch's fused backward pass is slow on a CPU; the squares of a few images are cheaper.
    of_projected = torch.empty_like(projected)
    images = max(1, round(_TOKENS / projected.shape[1]))
    for inputs, gradient, result in zip(
        *(tensor.split(images) for tensor in (projected, of_attended, of_projected)), strict=True
    ):
        query, key, value = torch.stack(_by_head(inputs, heads)).flatten(1, 2)
        gradient = gradient.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
        weights = (query @ key.mT).softmax(-1)
        of_scores = torch.ops.aten._softmax_backward_data(
            gradient @ value.mT, weights, -1, weights.dtype
        )
        parts = (of_scores @ key, of_scores.mT @ query, weights.mT @ gradient)
        for of_input, part in zip(_by_head(result, heads), parts, strict=True):
            of_input.copy_(part.unflatten(0, (-1, heads)))
    return of_projected
