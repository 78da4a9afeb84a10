"""Signs of a healthy run and of one that has collapsed.

Self-supervised losses can look fine while the features say the same about every image. What
tells is measured over an epoch: how spread the teacher's features are, in how many directions,
and how its assignments use the prototypes.
"""

import math

import torch
from torch import Tensor

from llava_rad.dinov2.dino_loss import prototype_entropy
from llava_rad.errors import TrainingError
from llava_rad.runs.distributed import sum_over_processes, world_size

# When a run has collapsed. Between healthy runs and those that the tests make collapse lies about
# a factor of ten: spread 0.5 to 1 against 0.04 and below (bfloat16's rounding alone makes 0.001 of
# equal features), entropy below 0.999 against 1. A low effective rank is no sign: runs that came to
# learn have passed through 1.3, and collapsed ones stay at 3 to 5 directions of noise.
_LEAST_SPREAD = 0.05
_LARGEST_ENTROPY = 0.9999


@torch.no_grad()
def signs(targets: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Two signs of collapse in one batch of all processes, []: they show it from the first step on.

    ``entropy`` is that of the teacher's assignments as a share of the largest possible, ``spread``
    the root mean square distance of normalised features from their mean, as in
    :meth:`EpochWatch.summary` of this batch alone.

    Args:
        targets: teacher distributions ``[tokens, prototypes]``.
        features: teacher CLS tokens ``[tokens, dim]``.
    """
    centre = torch.nn.functional.normalize(features.float(), dim=1).mean(0)
    centre = sum_over_processes(centre) / world_size()
    largest = math.log(max(targets.shape[1], 2))
    return {
        "entropy": prototype_entropy(targets) / largest,
        "spread": (1 - centre.square().sum()).clamp_min(0).sqrt(),
    }


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
        self._entropy = torch.zeros((), device=self.device)
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
        self._entropy += prototype_entropy(targets) * len(targets)
        normalised = torch.nn.functional.normalize(features.float(), dim=1)
        padded = torch.nn.functional.pad(normalised, (0, 1), value=1.0)
        self._moments += padded.T @ padded

    def state(self) -> dict[str, Tensor]:
        """Return what was collected by all processes, for a checkpoint."""
        return {
            "used": sum_over_processes(self._used).clamp_max(1),
            "entropy": sum_over_processes(self._entropy),
            "moments": sum_over_processes(self._moments),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`; to be called in one process only, since sums are added up."""
        self._used, self._entropy, self._moments = (
            state[name].to(self.device) for name in ("used", "entropy", "moments")
        )

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        """Return the epoch's figures.

        ``target_entropy``: mean entropy of the teacher's assignments, as a share of the largest
        possible. ``prototypes_seen``: how many prototypes were some token's first choice;
        ``prototypes_used``: their share of all, as far as there were enough tokens.
        ``feature_spread``: root mean square distance of normalised features from their mean, 0
        when all are equal, 1 when they are spread over the sphere. ``effective_rank``: exponential
        of the entropy of the feature covariance's spectrum (Roy and Vetterli 2007).
        """
        state = self.state()
        # One copy from the device, for which the host waits once.
        found = (
            torch.cat(
                [state["used"].sum()[None], state["entropy"][None], state["moments"].flatten()]
            )
            .cpu()
            .double()
        )
        used, entropy = found[:2].tolist()
        moments = found[2:].view(state["moments"].shape)
        count = float(moments[-1, -1])
        mean = moments[-1, :-1] / count
        covariance = moments[:-1, :-1] / count - torch.outer(mean, mean)
        spectrum = torch.linalg.eigvalsh(covariance).clamp_min(0)
        variance = float(spectrum.sum())
        shares = spectrum / max(variance, 1e-30)
        return {
            "target_entropy": entropy / count / math.log(max(self.prototypes, 2)),
            "prototypes_seen": used,
            "prototypes_used": used / min(self.prototypes, max(count, 1.0)),
            "feature_spread": math.sqrt(variance),
            "effective_rank": math.exp(-float(torch.special.xlogy(shares, shares).sum())),
        }


def check_collapse(summary: dict[str, float], epoch: float) -> None:
    """Stop a run whose teacher no longer tells images apart, or no longer says anything.

    To be asked after the learning rate's warm-up: a new vision transformer starts with features
    that hardly depend on the image.

    Args:
        summary: of one epoch, from :meth:`EpochWatch.summary`.
        epoch: named in the error.

    Raises:
        TrainingError: naming the signs that were seen and what to change.
    """
    spread, entropy = summary["feature_spread"], summary["target_entropy"]
    signs, remedies = [], []
    if spread < _LEAST_SPREAD:
        signs.append(f"its features of all images are nearly the same (spread {spread:.3f})")
        remedies.append("raise loss.koleo_weight, lower optimiser.base_lr")
    if entropy > _LARGEST_ENTROPY:
        signs.append(f"it likes all prototypes the same (entropy {entropy:.6f} of at most 1)")
        remedies.append("lower schedule.teacher_temperature, use fewer prototypes")
    if summary["prototypes_seen"] <= 1:
        signs.append("it gives every image the same prototype")
        remedies.append("use loss.targets=sinkhorn, raise schedule.teacher_temperature")
    if signs:
        raise TrainingError(
            f"the teacher has collapsed: {'; '.join(signs)}",
            where=f"epoch {epoch:g}",
            remedy=f"Change the settings ({'; '.join(remedies)}; a larger batch helps against all "
            "of this), or go on in spite of it with stop_when_collapsed=false",
            kind="collapsed",
        )
