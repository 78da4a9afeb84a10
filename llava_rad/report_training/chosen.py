"""The weights of a stage that are the best on validation so far."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llava_rad.runs.checkpoints import Checkpoint
from llava_rad.runs.state import plain_name, whole_tensors


class Chosen:
    """Keeps a copy of the best weights on the CPU; at first there are none.

    Attributes:
        tensors: trained parameters by name.
        step: after how many steps they were reached.
        value: of what they are chosen by; larger is better.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.step = 0
        self.value = 0.0

    def offer(self, parameters: Mapping[str, nn.Parameter], step: int, value: float) -> None:
        """Keep these weights if they are better than those kept; of equal ones the earlier."""
        if not self.tensors or value > self.value:
            self.tensors = whole_tensors(parameters.items(), keep=True)
            self.step, self.value = step, value

    def facts(self) -> dict[str, Any]:
        """What a checkpoint and the model say of the choice; nothing where none was made."""
        return {"chosen_step": self.step, "chosen_value": self.value} if self.tensors else {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint that holds :attr:`tensors` as ``chosen``, and the facts."""
        facts = checkpoint.facts().get("chosen")
        if facts:
            self.tensors = dict(checkpoint.tensors("chosen"))
            self.step, self.value = facts["chosen_step"], facts["chosen_value"]

    @torch.no_grad()
    def put(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give a model these weights, if some were chosen."""
        for name, parameter in parameters.items() if self.tensors else ():
            parameter.copy_(self.tensors[plain_name(name)])
