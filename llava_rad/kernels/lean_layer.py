"""A transformer layer that keeps little for its backward pass.

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

from llava_rad.errors import ConfigError

# Tokens whose attention goes backward at once on a CPU, so that the squares stay in its cache.
_TOKENS = 1024
# Size of an MLP's hidden units that are made at once on a CPU. The C library hands blocks over
# 32 MiB back to the system, which clears them anew every time.
_BYTES = 2**24


class PatchMasks(NamedTuple):
    """Some patches of each image.

    Attributes:
        chosen: bool ``[images, patches]``.
        places: int64 ``[chosen]``, where ``chosen.flatten()`` is true. To find them on a device
            would keep the host waiting, so they come with the mask.
    """

    chosen: Tensor
    places: Tensor

    @classmethod
    def of(cls, chosen: Tensor) -> "PatchMasks":
        """With the places of a mask that lies on the CPU."""
        return cls(chosen, chosen.flatten().nonzero().squeeze(1))

    def take(self, tokens: Tensor) -> Tensor:
        """The chosen patches, ``[chosen, ...]``, of ``[images, tokens, ...]`` that end in them."""
        patches = tokens[:, tokens.shape[1] - self.chosen.shape[1] :]
        return patches.flatten(0, 1).index_select(0, self.places)

    def to(self, device: torch.device) -> "PatchMasks":
        """A copy on a device."""
        return PatchMasks(*(tensor.to(device, non_blocking=True) for tensor in self))


class LeanLayer(nn.Module):
    """Stands in for transformers' layer, with its children and so with its names of parameters.

    Args:
        layer: of DINOv2, without or with registers.
        drop_path: share of the images that each branch leaves out in training, [0, 1).
        is_last: the layer obeys ``wanted``.

    Raises:
        ConfigError: the layer drops attention weights, which this one does not.
    """

    def __init__(self, layer: nn.Module, drop_path: float = 0.0, is_last: bool = False) -> None:
        super().__init__()
        for name in ("norm1", "attention", "layer_scale1", "norm2", "mlp", "layer_scale2"):
            self.add_module(name, layer.get_submodule(name))
        self.drop_path, self.is_last = drop_path, is_last
        config: Any = self.get_submodule("attention").config
        if config.attention_probs_dropout_prob:
            raise ConfigError(
                "dropout of attention weights is not part of DINOv2's method",
                where=f"attention_probs_dropout_prob={config.attention_probs_dropout_prob}",
                remedy="Set it to 0 in the encoder's config.json; drop_path is the method's own",
            )
        self._has_gelu = hasattr(self.mlp, "fc1") and config.hidden_act == "gelu"

    def forward(
        self,
        hidden: Tensor,
        attention_mask: None = None,
        wanted: PatchMasks | None = None,
        **options: Any,
    ) -> Tensor:
        """Map tokens to tokens.

        Args:
            hidden: ``[images, tokens, width]``.
            attention_mask: transformers makes none for images.
            wanted: patches of each image, which are the last of its tokens. The last layer
                computes its MLP for these and the first token of each image alone, and returns
                ``[1, images + wanted, width]``, first tokens first. None wants all.
            options: others that transformers hands on.
        """
        parts: dict[str, Any] = dict(self.named_children())
        attention, mlp, norm1, norm2 = (parts[n] for n in ("attention", "mlp", "norm1", "norm2"))
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        draw = self._draw(len(hidden))
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
        share = share.to(hidden.device)[:, None].expand(hidden.shape[:2])
        if wanted is not None:
            hidden, share = (torch.cat([x[:, 0], wanted.take(x)])[None] for x in (hidden, share))
        added: Tensor = hidden + share[..., None] * parts["layer_scale2"](mlp(norm2(hidden)))
        return added

    def _draw(self, images: int) -> "_Draw | None":
        """Draw the images that each branch is computed for; None: both for all.

        Their number is fixed, as in DINOv2's own code, and with it the shapes. Of one image no
        share can be left out: each branch is, or is not.
        """
        if not (self.training and self.drop_path):
            return None
        # On the CPU, so that no device has to be waited for.
        if images == 1:
            of_attention, of_mlp = (torch.rand(2) >= self.drop_path) / (1 - self.drop_path)
            only, one = torch.zeros(1, dtype=torch.long), slice(0, 1)
            return _Draw(only, only, one, one, float(of_attention), float(of_mlp))
        kept = max(1, round(images * (1 - self.drop_path)))
        attended, transformed = torch.zeros(2, images, dtype=torch.long)
        attended[torch.randperm(images)[:kept]] = 1
        transformed[torch.randperm(images)[:kept]] = 1
        # The first branch's own, those of both, the second's own, those of none: each branch's
        # images lie side by side.
        order = torch.where(attended == 1, transformed, 3 - transformed).argsort(stable=True)
        first = kept - int((attended & transformed).sum())
        attends, transforms = slice(0, kept), slice(first, first + kept)
        factor = images / kept
        return _Draw(order, order.argsort(), attends, transforms, factor, factor)


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
        return x.index_select(0, order.to(x.device))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.back.to(gradients[0].device)), None, None


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
    """Images that go through a branch together: on a CPU so few that memory is used again."""
    start, stop, _ = images.indices(len(x))
    size = stop - start
    if x.device.type == "cpu":
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
    # A CPU transposes the narrower factor in less time than its product takes to read columns.
    if rows.shape[1] <= inputs.shape[1]:
        of_weight = _rows_first(rows) @ inputs
    else:
        of_weight = (_rows_first(inputs) @ rows).T
    return of_inputs, of_weight, rows.sum(0)


def _rows_first(x: Tensor) -> Tensor:
    """Transpose; in memory too, for bfloat16 on a CPU."""
    return x.T.contiguous() if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x.T


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
