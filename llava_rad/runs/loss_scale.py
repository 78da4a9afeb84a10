"""Loss scaling for float16, whose smallest numbers would swallow most of a gradient.

As ``torch.amp.GradScaler`` does it, with two differences: the host never waits to know whether a
step was skipped, and the norm of the whole gradient decides, so that all processes skip together,
split or not.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llava_rad.runs.distributed import local_part

_START = 2.0**16
# Without a broken step for so long, the scale is doubled.
_STEPS = 2000
# A gradient that overflows even so has no other reason than the run itself.
_LEAST = 2.0**-14


class LossScale:
    """A factor of the loss that is halved when a gradient overflows, and doubled when none does.

    Args:
        device: of the losses.
    """

    def __init__(self, device: torch.device) -> None:
        self._scale = torch.tensor(_START, device=device)
        self._unbroken = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` of."""
        return loss * self._scale

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide gradients by the scale, in place."""
        gradients = [local_part(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self._scale)

    def step(self, optimiser: Any, norm: Tensor) -> dict[str, Tensor]:
        """Take the optimiser's step, unless the gradient is not finite, and adjust the scale.

        A step that is skipped changes neither weights nor what the optimiser keeps.

        Args:
            optimiser: of torch, fused.
            norm: of the whole unscaled gradient, [], the same in all processes.

        Returns:
            Figures, []: ``gradient``, the norm, 0 where the step was skipped, not finite where no
            scale helps; the ``scale`` of this step; how many steps were ``skipped`` so far.
        """
        broken = ~torch.isfinite(norm)
        # Known to torch's fused optimisers, which ask for it on the device.
        optimiser.found_inf = broken.float()
        optimiser.step()
        del optimiser.found_inf
        figures = {
            "gradient": norm.masked_fill(broken & (self._scale > _LEAST), 0),
            "scale": self._scale.clone(),
        }
        self._skipped += broken
        self._unbroken = (self._unbroken + 1).masked_fill(broken, 0)
        grown = self._unbroken >= _STEPS
        factor = torch.ones_like(self._scale).masked_fill(broken, 0.5).masked_fill(grown, 2.0)
        self._unbroken.masked_fill_(grown, 0)
        self._scale *= factor
        return figures | {"skipped": self._skipped.clone()}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"scale": self._scale, "unbroken": self._unbroken, "skipped": self._skipped}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        for name, own in self.state().items():
            own.copy_(state[name])
