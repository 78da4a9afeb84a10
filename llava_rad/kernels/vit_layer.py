"""A transformer layer of the pretraining backbone, in plain operations of torch.

It computes what transformers' layer does, and two things more: an image that stochastic depth drops
from a branch is not computed in it, and the last layer's MLP is computed only for the tokens that
are wanted of it. Gradients are autograd's, attention is torch's fused one.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llava_rad.errors import ConfigError


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


_PARTS = ("norm1", "attention", "layer_scale1", "norm2", "mlp", "layer_scale2")


def has_its_parts(layer: nn.Module) -> bool:
    """Whether a layer of transformers is made as :class:`VitLayer` needs it."""
    attention: Any = getattr(layer, "attention", None)
    return all(hasattr(layer, name) for name in _PARTS) and hasattr(attention, "config")


class VitLayer(nn.Module):
    """Stands in for transformers' layer, with its children and so with its names of parameters.

    Args:
        layer: of DINOv2, without or with registers; one that :func:`has_its_parts`.
        drop_path: share of the images that each branch leaves out in training, [0, 1).
        is_last: the layer obeys ``wanted``.

    Attributes:
        compiled: its branches are compiled, anew for every shape.

    Raises:
        ConfigError: the layer drops attention weights, which is not part of the method.
    """

    compiled = False

    def __init__(self, layer: nn.Module, drop_path: float = 0.0, is_last: bool = False) -> None:
        super().__init__()
        for name in _PARTS:
            self.add_module(name, layer.get_submodule(name))
        self.drop_path, self.is_last = drop_path, is_last
        config: Any = self.get_submodule("attention").config
        if config.attention_probs_dropout_prob:
            raise ConfigError(
                "dropout of attention weights is not part of DINOv2's method",
                where=f"attention_probs_dropout_prob={config.attention_probs_dropout_prob}",
                remedy="Set it to 0 in the encoder's config.json; drop_path is the method's own",
            )

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
        attend, transform = _compiled() if self.compiled else (_attend, _transform)
        hidden = attend(self, hidden, *self._draw(hidden))
        images, factor = self._draw(hidden)
        if not self.is_last or wanted is None:
            tokens: Tensor = transform(self, hidden, images, factor)
            return tokens
        share = torch.ones(len(hidden), 1, 1, dtype=hidden.dtype, device=hidden.device) * factor
        if images is not None:
            share = torch.zeros_like(share).index_copy(0, images, share[: len(images)])
        share = share.expand(*hidden.shape[:2], 1)
        hidden, share = (torch.cat([x[:, 0], wanted.take(x)])[None] for x in (hidden, share))
        return hidden + share * _mlp(self, hidden)

    def _draw(self, hidden: Tensor) -> tuple[Tensor | None, float | Tensor]:
        """Images that a branch is computed for, None for all, and its factor.

        Drawn on the device, which is not waited for.
        """
        images, device = len(hidden), hidden.device
        if not (self.training and self.drop_path):
            return None, 1.0
        kept = kept_images(images, self.drop_path)
        if kept is None:
            chosen = torch.rand(images, 1, 1, device=device) >= self.drop_path
            return None, (chosen / (1 - self.drop_path)).to(hidden.dtype)
        return torch.randperm(images, device=device)[:kept], images / kept


def kept_images(images: int, drop_path: float) -> int | None:
    """How many images of a batch stochastic depth computes a branch for.

    A fixed number, as in DINOv2's own code, and with it the shapes. None where no whole number is
    within a tenth of the rate, as of one image or two: then each image is drawn by itself.
    """
    kept = round(images * (1 - drop_path))
    wrong = abs(images - kept - images * drop_path)
    return kept if kept and wrong <= 0.1 * images * drop_path else None


def _attend(layer: Any, hidden: Tensor, images: Tensor | None, factor: Any) -> Tensor:
    return _add_branch(layer, _attention, hidden, images, factor)


def _transform(layer: Any, hidden: Tensor, images: Tensor | None, factor: Any) -> Tensor:
    return _add_branch(layer, _mlp, hidden, images, factor)


def _add_branch(
    layer: Any, branch: Any, hidden: Tensor, images: Tensor | None, factor: Any
) -> Tensor:
    """Tokens and a branch of theirs, of some images alone, times what makes up for the others.

    The factor is a number where there are images, else a number or a tensor.
    """
    if images is not None:
        some = branch(layer, hidden.index_select(0, images))
        return hidden.index_add(0, images, some, alpha=factor)
    added: Tensor = branch(layer, hidden)
    return hidden + (added if isinstance(factor, float) else added * factor)


def _attention(layer: Any, hidden: Tensor) -> Tensor:
    attended, _ = layer.attention(layer.norm1(hidden))
    scaled: Tensor = layer.layer_scale1(attended)
    return scaled


def _mlp(layer: Any, hidden: Tensor) -> Tensor:
    scaled: Tensor = layer.layer_scale2(layer.mlp(layer.norm2(hidden)))
    return scaled


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """Both branches compiled, for all layers together; made late, since it imports much."""
    return torch.compile(_attend, dynamic=False), torch.compile(_transform, dynamic=False)
