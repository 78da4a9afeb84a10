"""What the loop of training asks of each way to learn."""

from typing import Any, Protocol

from llava_rad.report_training.batches import MicroBatch
from llava_rad.report_training.chosen import Chosen
from llava_rad.report_training.step import StepOutcome


class Learner(Protocol):
    """A way to learn; its lessons, one a forward pass, have ``study_ids``.

    Attributes:
        chosen: weights that are kept in place of the last ones, if any.
    """

    chosen: Chosen

    def train_mode(self) -> None:
        """Make the model ready for :meth:`learn`."""

    def lessons(self, step: int, batches: list[MicroBatch]) -> list[Any]:
        """What a step learns from, of this process."""

    def count(self, lessons: list[Any]) -> list[int]:
        """Target tokens, tokens without padding, and places with padding."""

    def learn(self, lessons: list[Any], targets: int) -> StepOutcome:
        """One step, with the target tokens of all processes."""

    def figures(self) -> dict[str, float]:
        """What the log says beside loss and gradient."""

    def validate(self, step: int) -> dict[str, float]:
        """What the validation split says; nothing without one."""
