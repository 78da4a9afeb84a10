"""The weights of a stage that are the best on validation so far."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from llava_rad.runs.checkpoints import Checkpoint
from llava_rad.runs.state import plain_name, whole_tensors


class Chosen:
    """Keeps a copy of the best weights on the CPU; at first there are none.

    Attributes:
        tensors: trained parameters by name.
        facts: what is said of them: ``chosen_step``, ``chosen_value``, and validation's figures.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, float] = {}

    def offer(
        self,
        parameters: Mapping[str, nn.Parameter],
        step: int,
        value: float,
        figures: Mapping[str, float],
    ) -> None:
        """Keep weights if they are better than those kept; of equal ones the earlier.

        Args:
            parameters: by name.
            step: after how many steps they were reached.
            value: larger is better.
            figures: what validation found out about them.
        """
        if not self.tensors or value > self.facts["chosen_value"]:
            self.tensors = whole_tensors(parameters.items(), keep=True)
            self.facts = {"chosen_step": step, "chosen_value": value, **figures}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint that holds tensors and facts under the name ``chosen``."""
        self.facts = checkpoint.facts().get("chosen", {})
        self.tensors = dict(checkpoint.tensors("chosen"))

    @torch.no_grad()
    def put(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give a model these weights, if some were chosen."""
        for name, parameter in parameters.items() if self.tensors else ():
            parameter.copy_(self.tensors[plain_name(name)])
