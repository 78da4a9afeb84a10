"""Cross-entropy against soft targets, in float32, without a matrix of log-probabilities."""

import torch
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``-sum_k targets_k log softmax(logits / temperature)_k`` for each row.

    Since ``log softmax(x) = x - logsumexp(x)``, one dot product and one reduction are enough.

    Args:
        logits: student logits ``[..., prototypes]``.
        targets: non-negative weights, broadcastable to ``logits``; a sum of several teachers'
            distributions gives the sum of their cross-entropies.
        temperature: of the student.

    Returns:
        Float32 tensor ``[...]``.
    """
    scaled = logits.float() / temperature
    targets = targets.float()
    return targets.sum(dim=-1) * torch.logsumexp(scaled, dim=-1) - (targets * scaled).sum(dim=-1)
