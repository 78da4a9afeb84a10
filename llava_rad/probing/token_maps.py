"""What an encoder's tokens look like: principal components as colours, attention of CLS."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ModelError


def principal_colours(
    patches: Tensor, grid: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first three principal components of the patch tokens of several images, as colours.

    The components are those of all images together, so that a colour means the same in each. Each
    component goes from its 2nd to its 98th percentile.

    Args:
        patches: [images, tokens, dim].
        grid: rows and columns of the tokens.

    Returns:
        Red, green and blue in [0, 1], [images, rows, columns, 3], and the share of the tokens'
        variance that each of the three components explains.
    """
    tokens = patches.double().flatten(0, 1)
    centred = tokens - tokens.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; this one is the same on every machine.
    largest = directions[:3].gather(1, directions[:3].abs().argmax(dim=1, keepdim=True))
    scores = (centred @ (directions[:3] * largest.sign()).T).numpy()
    low, high = np.percentile(scores, [2, 98], axis=0)
    colours = (scores - low) / np.where(high > low, high - low, 1)
    variance = lengths.square()
    shares = (variance[:3] / variance.sum().clamp_min(1e-30)).numpy()
    return colours.clip(0, 1).reshape(len(patches), *grid, 3), shares


@torch.inference_mode()
def cls_attention(encoder: ImageEncoder, pixel_values: Tensor) -> Tensor:
    """How much CLS attends to each patch in the last block, heads averaged.

    Args:
        encoder: of transformers' DINOv2 or CLIP.
        pixel_values: [batch, 3, height, width].

    Returns:
        [batch, rows, columns]; what goes to CLS and registers themselves is left out.

    Raises:
        ModelError: the encoder's family does not give its attention, or has no CLS token.
    """
    model: Any = getattr(encoder, "model", None)
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", "") not in _WITH_CLS:
        raise ModelError(
            "the attention of CLS cannot be read from this family of encoders",
            where=encoder.name,
            remedy=f"It can from {', '.join(_WITH_CLS)} models of transformers",
            kind="no_attention",
        )
    before = config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not keep their weights
    try:
        options = {"interpolate_pos_encoding": True} if "clip" in config.model_type else {}
        output = model(pixel_values.to(next(model.parameters())), output_attentions=True, **options)
    finally:
        model.set_attn_implementation(before)
    tokens_before = 1 + int(getattr(config, "num_register_tokens", 0))
    attention = output.attentions[-1][:, :, 0, tokens_before:].float().mean(dim=1)
    return attention.unflatten(1, encoder.grid(*pixel_values.shape[-2:])).cpu()


_WITH_CLS = ("dinov2", "dinov2_with_registers", "clip_vision_model")
