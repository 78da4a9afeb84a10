"""Random weights for a new backbone in a short run from scratch.

The usual start of a vision transformer, normal weights and positions of standard deviation 0.02,
hides where a patch lies: beside a patch embedding of about 0.5 the position is 25 times smaller,
and attention is close to even over all patches. Long runs grow out of it. Here matrices are
Glorot-uniform and the position table is sine and cosine, as MAE (arXiv:2111.06377) and MoCo v3
(arXiv:2104.02057) start theirs, but the table stays trainable.
"""

import math

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import nn
from transformers import Dinov2Model, Dinov2WithRegistersModel


@torch.no_grad()
def glorot_sincos(backbone: Dinov2Model | Dinov2WithRegistersModel) -> None:
    """Replace the random weights of matrices, patch embedding and position table.

    Biases become 0; norms, layer scale, CLS, mask and register tokens stay as they are.

    Args:
        backbone: changed in place.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            # A convolution of its own stride is a matrix product on flattened patches.
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    table = backbone.embeddings.position_embeddings
    side = math.isqrt(table.shape[1] - 1)  # new backbones are made for square images
    table[:, 0] = 0
    table[0, 1:] = build_sincos2d_pos_embed([side, side], table.shape[-1])
