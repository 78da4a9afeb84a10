"""Probabilities of observations: one linear layer on an encoder's frozen vectors, calibrated."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.saved_heads import load_head, save_head

FILE = "observations.safetensors"
_MARK = "observation_head"


@dataclass(frozen=True, eq=False)
class ObservationHead:
    """A logistic layer on CLS and the mean of the patch tokens, one output an observation.

    Attributes:
        names: of the observations, in the order of the outputs.
        weight: float32 [observations, 2 * dim], for CLS beside the mean of the patches.
        bias: float32 [observations].
        temperature: float32 [observations]; logits are divided by it, so that what is said with
            70 % is right in 70 % (Guo et al., ICML 2017).
        facts: what it belongs to and how it was made, all of it JSON.
    """

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    temperature: Tensor
    facts: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, cls: Tensor, patches: Tensor) -> Tensor:
        """Of each observation in each image.

        Args:
            cls: of the images, [images, dim].
            patches: [images, tokens, dim].

        Returns:
            float32 [images, observations], 0 to 1.
        """
        vectors = torch.cat([cls, patches.mean(dim=1)], dim=1).float().cpu()
        return ((vectors @ self.weight.T + self.bias) / self.temperature).sigmoid()

    def save(self, file: Path) -> None:
        """Write a safetensors file that :func:`load_observation_head` reads back."""
        tensors = {"weight": self.weight, "bias": self.bias, "temperature": self.temperature}
        about = {"names": list(self.names), "facts": self.facts}
        save_head(file, _MARK, tensors, about)


def load_observation_head(file: Path) -> ObservationHead:
    """Read what :meth:`ObservationHead.save` wrote.

    Raises:
        WeightsError: the file is no such head, or damaged.
    """

    def make(tensors: dict[str, Tensor], about: dict[str, Any]) -> ObservationHead:
        head = ObservationHead(tuple(about["names"]), **tensors, facts=dict(about["facts"]))
        count = len(head.names)
        if head.weight.ndim != 2 or len(head.weight) != count:
            raise ValueError(f"weight is {list(head.weight.shape)} for {count} observations")
        if head.bias.shape != (count,) or head.temperature.shape != (count,):
            raise ValueError("bias and temperature are not one number an observation")
        if not (head.temperature > 0).all():
            raise ValueError("a temperature is not above 0")
        return head

    return load_head(
        file,
        _MARK,
        make,
        what="observation head",
        remedy="Make it anew with training/train_observations.py, or remove the file",
        kind="no_observations",
    )
