"""What the teacher asks of the student: a distribution over prototypes for each token.

Two ways of keeping all tokens from falling onto one prototype: subtracting a running centre
before the softmax (DINO, arXiv:2104.14294) and Sinkhorn-Knopp (SwAV, arXiv:2006.09882), which
spreads each batch evenly over the prototypes. Both are computed in float32.
"""

import torch
from torch import Tensor, nn

from llava_rad.runs.distributed import max_over_processes, sum_over_processes

# Sums below this are prototypes or tokens that hold no weight at all in float32.
_TINY = 1e-35


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assign tokens to prototypes so that all prototypes receive the same total weight.

    Args:
        logits: teacher logits ``[tokens, prototypes]``, this process's share of the batch. The
            number of tokens may differ between processes and may be 0.
        temperature: of the teacher.
        iterations: alternations between prototypes and tokens.

    Returns:
        Probabilities ``[tokens, prototypes]``, float32, each row summing to 1.
    """
    scaled = logits.float() / temperature
    prototypes = scaled.shape[1]
    tokens = sum_over_processes(scaled.new_full((), float(len(scaled))))
    # One common factor changes nothing and keeps exp() from overflowing.
    largest = scaled.max() if len(scaled) else scaled.new_full((), -torch.inf)
    kernel = (scaled - max_over_processes(largest)).exp_()
    # The matrix itself is never rewritten: only its row and column factors are.
    token_factor = torch.ones_like(kernel[:, 0])
    prototype_factor = torch.ones_like(kernel[0]) if len(kernel) else scaled.new_ones(prototypes)
    for _ in range(iterations):
        weight = sum_over_processes(kernel.T @ token_factor)
        prototype_factor = 1 / (prototypes * weight).clamp_min(_TINY)
        token_factor = 1 / (tokens * (kernel @ prototype_factor)).clamp_min(_TINY)
    return kernel.mul_(prototype_factor).mul_((token_factor * tokens)[:, None])


class SoftmaxCentring(nn.Module):
    """Softmax of teacher logits from which a running mean has been subtracted.

    Call :meth:`forward` for every micro-batch and :meth:`update` once per optimiser step; the
    centre moves only there, by the mean over all tokens seen since, in all processes.

    Args:
        prototypes: number of logits.
        momentum: share of the old centre that an update keeps.
    """

    centre: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(1, prototypes))
        self._sum: Tensor | None = None
        self._count = 0

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Return probabilities ``[tokens, prototypes]``, float32, and remember the logits' sum."""
        logits = logits.float()
        total = logits.sum(dim=0, keepdim=True)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(logits)
        return torch.softmax((logits - self.centre) / temperature, dim=-1)

    @torch.no_grad()
    def update(self) -> None:
        """Move the centre towards the mean of the logits seen since the last update."""
        if self._sum is None:
            return
        total = sum_over_processes(self._sum)
        count = sum_over_processes(total.new_full((), float(self._count)))
        # Without a token the centre stays; the device is not asked whether there was one.
        weight = (count > 0).to(total.dtype) * (1 - self.momentum)
        self.centre.lerp_(total / count.clamp_min(1), weight)
        self._sum, self._count = None, 0
