"""Sampling that belongs to a study: its draws come from the seed and its id, not from the batch.

The token that is largest in ``log p + g`` with independent Gumbel ``g`` is a draw from ``p``, so
greedy decoding of noisy scores samples, and each row has its noise from a generator of its own.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

# Scores divided by less are infinite in float32, and the draw is the first token, whatever it is.
_SMALLEST = 1e-30


def draw_seed(seed: int, key: str) -> int:
    """Seed of the draws of one study."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StudyDraws(LogitsProcessor):
    """Temperature, nucleus and noise; what is left is decoded greedily.

    Args:
        keys: of the rows, such as study ids.
        seed: of all draws.
        temperature: above 0.
        top_p: the smallest set of tokens with this probability is drawn from.
    """

    def __init__(self, keys: Sequence[str], seed: int, temperature: float, top_p: float) -> None:
        self._temperature = max(temperature, _SMALLEST)
        self._top_p = top_p
        # On the CPU, so that every device draws the same.
        self._generators = [torch.Generator().manual_seed(draw_seed(seed, key)) for key in keys]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, vocabulary] in float32 with noise, minus infinity outside the nucleus."""
        scores = scores.float() / self._temperature
        if self._top_p < 1:
            scores = nucleus(scores, self._top_p)
        uniform = torch.stack(
            [
                torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
                for generator in self._generators
            ]
        )
        tiny = torch.finfo(torch.float64).tiny
        noise = -torch.log(-torch.log(uniform.clamp_min(tiny)))
        return scores + noise.float().to(scores.device)


def nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Scores [rows, vocabulary] with minus infinity outside the smallest set of this probability.

    The most probable token always stays.
    """
    ordered, order = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    outside = before >= top_p
    outside[..., 0] = False
    return scores.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
