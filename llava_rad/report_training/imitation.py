"""Learning to write the true reports, token by token: what align and finetune do."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rad.report_training.batches import Images, MicroBatch, count_tokens
from llava_rad.report_training.building import train_mode
from llava_rad.report_training.chosen import Chosen
from llava_rad.report_training.config import StageConfig
from llava_rad.report_training.samples import ReportSamples
from llava_rad.report_training.step import StepOutcome, take_step
from llava_rad.report_training.validation import validation_loss


class Imitation:
    """Learns the true reports of one stage.

    Args:
        model: spread over the processes.
        optimiser: Accelerate's.
        accelerator: that all processes share.
        stage: ``align`` or ``finetune``.
        settings: of the stage.
        validation: the split that is validated on, if there is one.
        images: where those of the studies come from.
        workers: processes that read ahead.

    Attributes:
        chosen: no weights: the last ones are the stage's.
    """

    def __init__(
        self,
        model: Any,
        optimiser: Any,
        accelerator: Accelerator,
        stage: str,
        settings: StageConfig,
        validation: ReportSamples | None,
        images: Images,
        workers: int,
    ) -> None:
        self.chosen = Chosen()
        self._model, self._optimiser, self._accelerator = model, optimiser, accelerator
        self._stage, self._settings = stage, settings
        self._validation, self._images, self._workers = validation, images, workers

    def train_mode(self) -> None:
        """Make the model ready for :meth:`learn`."""
        train_mode(self._model, self._stage)

    def lessons(self, step: int, batches: list[MicroBatch]) -> list[MicroBatch]:
        """What a step learns from: the studies as they are."""
        return batches

    def count(self, lessons: Sequence[MicroBatch]) -> list[int]:
        """Target tokens, tokens without padding, and places with padding."""
        return count_tokens(lessons)

    def learn(self, lessons: Sequence[MicroBatch], targets: int) -> StepOutcome:
        """One optimiser step, see :func:`imitate`.

        Args:
            lessons: of this process, one a forward pass.
            targets: target tokens of the step, in all processes.
        """
        return imitate(
            self._model,
            self._optimiser,
            self._accelerator,
            lessons,
            device=self._accelerator.device,
            targets=targets,
            clip=self._settings.clip,
        )

    def figures(self) -> dict[str, float]:
        """What the log says beside loss and gradient."""
        return {}

    def validate(self, step: int) -> dict[str, float]:
        """The loss on the validation split; nothing without one."""
        if self._validation is None:
            return {}
        loss = validation_loss(
            self._model,
            self._validation,
            self._settings.micro_batch,
            self._accelerator,
            self._images,
            self._workers,
        )
        return {"validation_loss": loss}


def imitate(
    model: Any,
    optimiser: Any,
    accelerator: Accelerator,
    batches: Sequence[MicroBatch],
    *,
    device: torch.device,
    targets: int,
    clip: float,
) -> StepOutcome:
    """One optimiser step; each target token of its whole batch counts the same.

    Args:
        model: spread over the processes.
        optimiser: Accelerate's.
        accelerator: that all processes share, with its accumulation set to ``len(batches)``.
        batches: this process's.
        device: of the model.
        targets: target tokens of the step, in all processes.
        clip: largest norm of the gradient.
    """

    def loss(batch: MicroBatch) -> Tensor:
        out = model(**batch.model_inputs(device))
        share: Tensor = out.loss * (batch.target_tokens / targets)
        return share

    return take_step(model, optimiser, accelerator, batches, loss, clip=clip)
