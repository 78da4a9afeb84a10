"""Vision transformers from transformers, run as the method needs them.

The backbone is transformers' ``Dinov2Model`` or ``Dinov2WithRegistersModel``, so that what comes
out of training is a plain transformers folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
)

from llava_rad.dinov2.config import BackboneConfig
from llava_rad.dinov2.initialisation import glorot_sincos
from llava_rad.dinov2.recomputed_layer import RecomputedLayer
from llava_rad.encoders import DINOV2, load_encoder
from llava_rad.errors import ConfigError
from llava_rad.kernels import choice
from llava_rad.kernels.gray_patches import GrayPatches
from llava_rad.kernels.vit_layer import PatchMasks

# Width, layers, heads.
ARCHITECTURES: dict[str, tuple[int, int, int]] = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


class Tokens(NamedTuple):
    """Tokens after the final norm: ``cls [batch, dim]``, ``patches [wanted, dim]``."""

    cls: Tensor
    patches: Tensor


def build_backbone(
    config: BackboneConfig,
    kernels: choice.Chosen = "cpu",
    compiled: bool = False,
    recomputed: bool = False,
) -> PreTrainedModel:
    """Return the student's backbone: new, or that of an encoder, ready to be trained.

    Args:
        config: what it is.
        kernels: of its layers.
        compiled: as for :func:`prepare`.
        recomputed: as for :func:`prepare`.

    Raises:
        ConfigError: the encoder is not a DINOv2 vision transformer.
        WeightsError: it cannot be loaded.
    """
    backbone = _new(config) if config.encoder is None else _pretrained(config.encoder)
    return prepare(backbone, config.drop_path, kernels, compiled, recomputed)


def prepare(
    backbone: Any,
    drop_path: float = 0.0,
    kernels: choice.Chosen = "cpu",
    compiled: bool = False,
    recomputed: bool = False,
) -> PreTrainedModel:
    """Give a backbone the layers that training uses, in place.

    Args:
        backbone: ``Dinov2Model`` or ``Dinov2WithRegistersModel``; its parameters stay its own.
        drop_path: stochastic depth of every layer, whatever the backbone was saved with.
        kernels: of the layers.
        compiled: compile the branches of the layers, those for a CPU excepted.
        recomputed: keep only what enters each layer for the backward pass.
    """
    backbone.embeddings.patch_embeddings = GrayPatches(backbone.embeddings.patch_embeddings)
    layers = backbone.encoder.layer
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        made = choice.backbone_layer(layer, kernels, drop_path, last, compiled)
        layers[number] = RecomputedLayer(made) if recomputed else made
    backbone.config.drop_path_rate = drop_path
    prepared: PreTrainedModel = backbone
    return prepared


def _new(config: BackboneConfig) -> PreTrainedModel:
    width, layers, heads = ARCHITECTURES[config.architecture]
    settings: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "layerscale_value": config.layer_scale,
    }
    backbone: Dinov2Model | Dinov2WithRegistersModel
    if config.registers:
        backbone = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(num_register_tokens=config.registers, **settings)
        )
    else:
        backbone = Dinov2Model(Dinov2Config(**settings))
    if config.initialisation == "glorot_sincos":
        glorot_sincos(backbone)
    return backbone


def _pretrained(encoder: str) -> PreTrainedModel:
    # A file in the original repository's layout need not say how its images were prepared: crops
    # are normalised with the new training set's own statistics.
    preprocessing = DINOV2 if Path(encoder).is_file() else None
    backbone = getattr(load_encoder(encoder, preprocessing=preprocessing), "model", None)
    if not isinstance(backbone, Dinov2Model | Dinov2WithRegistersModel):
        raise ConfigError(
            "only DINOv2 vision transformers can be trained further",
            where=encoder,
            remedy="Use one of the dinov2 or rad-dino encoders, or null to start from scratch",
        )
    if backbone.embeddings.mask_token is None:
        raise ConfigError(
            "the encoder has no mask token, which masked training needs",
            where=encoder,
            remedy="Use an encoder that was saved with use_mask_token=true",
        )
    return backbone.requires_grad_(True)


def tokens(
    backbone: Callable[..., Any],
    images: Tensor,
    masks: Tensor | None,
    wanted: PatchMasks | None,
) -> Tokens:
    """Run a backbone.

    Args:
        backbone: a prepared one, or a function that stands for it.
        images: normalised, ``[batch, 1, H, W]``.
        masks: bool ``[batch, patches]``; these patches are replaced by the mask token.
        wanted: patch tokens to return, image by image; None for none.
    """
    if wanted is None:
        nothing = torch.zeros(len(images), 0, dtype=torch.bool, device=images.device)
        wanted = PatchMasks(nothing, nothing.new_zeros(0, dtype=torch.long))
    output = backbone(images, bool_masked_pos=masks, wanted=wanted).last_hidden_state[0]
    return Tokens(output[: len(images)], output[len(images) :])
