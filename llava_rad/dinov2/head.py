"""The projection from a token to logits over prototypes (DINO, arXiv:2104.14294, section 3)."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose rows are kept as a direction and a length.

    ``weight = weight_g * weight_v / |weight_v|`` row by row. Written out, not taken from
    ``torch.nn.utils``, so that the parameters keep the names of published checkpoints and can be
    copied and sharded like any others.

    Always float32: a logit is a cosine, and the teacher divides it by a temperature of about 0.04.
    bfloat16's steps of 1/256 below 1 would then be steps of a tenth in the exponent.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1))
        self.weight_v = nn.Parameter(torch.empty(out_dim, in_dim))
        bound = in_dim**-0.5
        nn.init.uniform_(self.weight_v, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_dim] -> [..., out_dim]``."""
        with torch.autocast(x.device.type, enabled=False):
            lengths = torch.linalg.vector_norm(self.weight_v, dim=1, keepdim=True)
            return F.linear(x.float(), self.weight_v * (self.weight_g / lengths))


class DINOHead(nn.Module):
    """Multi-layer perceptron, L2 normalisation, and a weight-normed layer of prototypes.

    Args:
        in_dim: width of a token.
        prototypes: number of outputs.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: width in which tokens and prototypes are compared.
        layers: linear layers before the prototypes, at least 1.
    """

    def __init__(
        self,
        in_dim: int,
        prototypes: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
    ) -> None:
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (layers - 1) + [bottleneck_dim]
        modules: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            linear = nn.Linear(width_in, width_out)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        self.last_layer = WeightNormLinear(bottleneck_dim, prototypes)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., in_dim] -> logits [..., prototypes]``, float32."""
        return self.last_layer(F.normalize(self.mlp(tokens).float(), dim=-1))
