"""Signs of a healthy run and of one that has collapsed.

Self-supervised losses can look fine while the features say the same about every image. What
tells is measured over an epoch: how spread the teacher's features are, in how many directions,
and how its assignments use the prototypes.
"""

import math

import torch
from torch import Tensor

from llava_rad.dinov2.dino_loss import prototype_entropy
from llava_rad.dinov2.distributed import sum_over_processes
from llava_rad.errors import TrainingError

# Below these a feature no longer tells images apart; a healthy run stays far above.
_LEAST_RANK = 1.05
_LEAST_SPREAD = 1e-4


class EpochWatch:
    """Collects one epoch's statistics of the teacher, over all processes.

    Args:
        prototypes: of the DINO head.
        dim: of the features.
        device: where the statistics are kept.
    """

    def __init__(self, prototypes: int, dim: int, device: torch.device) -> None:
        self.prototypes = prototypes
        self.dim = dim
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Start a new epoch."""
        self._used = torch.zeros(self.prototypes, device=self.device)
        self._sums = torch.zeros(2, device=self.device)  # entropy, batches
        # Features and their products, with a constant 1 beside them to count and to average.
        self._moments = torch.zeros(self.dim + 1, self.dim + 1, device=self.device)

    @torch.no_grad()
    def add(self, targets: Tensor, features: Tensor) -> None:
        """Add one batch.

        Args:
            targets: teacher distributions ``[tokens, prototypes]``.
            features: teacher CLS tokens ``[tokens, dim]``.
        """
        self._used[targets.argmax(dim=1)] = 1
        self._sums += torch.stack([prototype_entropy(targets), self._sums.new_ones(())])
        normalised = torch.nn.functional.normalize(features.float(), dim=1)
        padded = torch.nn.functional.pad(normalised, (0, 1), value=1.0)
        self._moments += padded.T @ padded

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        """Return the epoch's figures.

        ``target_entropy``: mean entropy of the teacher's assignments, as a share of the largest
        possible. ``prototypes_used``: share of the prototypes that were some token's first
        choice, as far as there were enough tokens. ``feature_spread``: root mean square distance
        of normalised features from their mean, 0 when all are equal, 1 when they are spread over
        the sphere. ``effective_rank``: exponential of the entropy of the feature covariance's
        spectrum (Roy and Vetterli 2007).
        """
        used = sum_over_processes(self._used).clamp_max(1)
        entropy, batches = sum_over_processes(self._sums).tolist()
        moments = sum_over_processes(self._moments).double()
        count = moments[-1, -1]
        mean = moments[-1, :-1] / count
        covariance = moments[:-1, :-1] / count - torch.outer(mean, mean)
        spectrum = torch.linalg.eigvalsh(covariance.cpu()).clamp_min(0)
        variance = float(spectrum.sum())
        shares = spectrum / max(variance, 1e-30)
        return {
            "target_entropy": entropy / max(batches, 1) / math.log(max(self.prototypes, 2)),
            "prototypes_used": float(used.sum()) / min(self.prototypes, max(float(count), 1.0)),
            "feature_spread": math.sqrt(variance),
            "effective_rank": math.exp(-float(torch.special.xlogy(shares, shares).sum())),
        }


def check_finite(losses: dict[str, float], step: int) -> None:
    """Stop a run whose losses are not finite.

    Raises:
        TrainingError: naming the loss.
    """
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"the {' and the '.join(broken)} loss is not finite",
            where=f"step {step}",
            remedy="Lower optimiser.base_lr or optimiser.clip, lengthen schedule.warmup_epochs, "
            "or set precision=fp32 to see whether bfloat16 is the reason",
            kind="not_finite",
        )


def check_collapse(summary: dict[str, float], epoch: int) -> None:
    """Stop a run whose teacher no longer tells images apart.

    Raises:
        TrainingError: naming the sign that was seen.
    """
    signs = []
    if summary["feature_spread"] < _LEAST_SPREAD:
        signs.append(f"feature spread {summary['feature_spread']:.1e} is below {_LEAST_SPREAD}")
    if summary["effective_rank"] < _LEAST_RANK:
        signs.append(f"effective rank {summary['effective_rank']:.2f} is below {_LEAST_RANK}")
    if signs:
        raise TrainingError(
            f"the teacher has collapsed: {' and '.join(signs)}",
            where=f"epoch {epoch}",
            remedy="Use loss.targets=sinkhorn, lower optimiser.base_lr, lower the end of "
            "schedule.teacher_temperature, raise loss.koleo_weight, or enlarge the batch",
            kind="collapsed",
        )
