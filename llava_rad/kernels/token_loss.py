"""Cross-entropy over a vocabulary, in float32 but never with a float32 copy of all logits.

On a CPU such copies are the largest blocks of a training step: fresh memory for them costs more
time than the arithmetic. There a few rows at a time are taken, forward and backward, and the
logits are kept as they are. Other devices have memory ready and are left to torch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llava_rad.kernels.row_blocks import row_blocks

# Logits taken at once: one MB of float32.
_BLOCK = 2**18


def token_loss(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Mean cross-entropy, float32.

    Args:
        logits: [tokens, vocabulary], of any floating dtype.
        targets: [tokens]; at least one is not ``ignore``.
        ignore: target of tokens that are left out.
    """
    if logits.device.type != "cpu":
        return nn.functional.cross_entropy(logits.float(), targets, ignore_index=ignore)
    counted = targets != ignore
    weights = counted.float().div_(counted.sum())
    return (token_losses(logits, targets, ignore) * weights).sum()


def token_losses(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Cross-entropy of each token, which is minus the logarithm of its probability.

    Args:
        logits: [tokens, vocabulary], of any floating dtype.
        targets: [tokens].
        ignore: target of tokens that are left out; theirs is 0.

    Returns:
        [tokens], float32.
    """
    if logits.device.type != "cpu":
        return nn.functional.cross_entropy(
            logits.float(), targets, ignore_index=ignore, reduction="none"
        )
    losses: Tensor = _TokenLosses.apply(logits, targets, targets != ignore)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        places = targets.where(counted, 0).unsqueeze(-1)
        norms = torch.cat(
            [
                block.float().logsumexp(-1, keepdim=True)
                for (block,) in row_blocks(logits, elements=_BLOCK)
            ]
        )
        ctx.save_for_backward(logits, places, counted, norms)
        return (norms - logits.gather(-1, places)).squeeze(-1).where(counted, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, places, counted, norms = ctx.saved_tensors
        weights = gradients[0].where(counted, 0).unsqueeze(-1)
        of_logits = torch.empty_like(logits)
        for block, place, weight, norm, out in row_blocks(
            logits, places, weights, norms, of_logits, elements=_BLOCK
        ):
            # softmax less the target's one
            part = (block.float() - norm).exp_()
            part.scatter_add_(-1, place, -torch.ones_like(norm))
            torch.mul(part, weight, out=out)
        return of_logits, None, None
