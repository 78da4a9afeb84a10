"""What a model tells of an image beside its text, all of it from the encoder's frozen tokens.

``observations.safetensors`` gives probabilities, ``training_summary.safetensors`` tells whether an
image is like those of the training, ``segmentation.safetensors`` outlines organs. Each may be
absent. ``training/train_observations.py`` makes them. A file that was made for another encoder is
refused: on other tokens its numbers would mean nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_rad.errors import WeightsError
from llava_rad.model import observation_head, training_summary
from llava_rad.model.configuration import EncoderReference
from llava_rad.model.observation_head import ObservationHead, load_observation_head
from llava_rad.model.training_summary import TrainingSummary, load_training_summary
from llava_rad.outlines import FILE as SEGMENTATION_FILE
from llava_rad.outlines import SegmentationHead, load_head

FILES = (observation_head.FILE, training_summary.FILE, SEGMENTATION_FILE)


@dataclass(frozen=True, eq=False)
class EncoderHeads:
    """The heads of a model; None where it has none.

    Attributes:
        observations: probabilities of observations.
        summary: of the training images' features.
        segmentation: outlines; it sees whole images.
    """

    observations: ObservationHead | None = None
    summary: TrainingSummary | None = None
    segmentation: SegmentationHead | None = None

    @property
    def structures(self) -> tuple[str, ...]:
        """What is outlined, by name."""
        return () if self.segmentation is None else self.segmentation.structures

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the files of the heads that there are.

        Args:
            folder: of the model.
            fingerprint: of its encoder; it goes into the files.
        """

        def facts(of: Mapping[str, Any]) -> dict[str, Any]:
            return {**of, "encoder": {**of.get("encoder", {}), "fingerprint": fingerprint}}

        if self.observations is not None:
            head = replace(self.observations, facts=facts(self.observations.facts))
            head.save(folder / observation_head.FILE)
        if self.summary is not None:
            replace(self.summary, facts=facts(self.summary.facts)).save(
                folder / training_summary.FILE
            )
        if self.segmentation is not None:
            self.segmentation.facts = facts(self.segmentation.facts)
            self.segmentation.save(folder / SEGMENTATION_FILE)


def load_heads(folder: Path, encoder: EncoderReference) -> EncoderHeads:
    """Read the heads that a model's folder holds.

    Args:
        folder: of the model.
        encoder: of the model, as its config says.

    Raises:
        WeightsError: a file is damaged, foreign, or was made for another encoder.
    """
    observations = summary = segmentation = None
    file = folder / observation_head.FILE
    if file.is_file():
        observations = load_observation_head(file)
        _require_own(observations.facts, observations.weight.shape[1] / 2, encoder, file)
    file = folder / training_summary.FILE
    if file.is_file():
        summary = load_training_summary(file)
        _require_own(summary.facts, summary.mean.shape[1], encoder, file)
    file = folder / SEGMENTATION_FILE
    if file.is_file():
        segmentation = load_head(file)
        _require_own(segmentation.facts, segmentation.dim, encoder, file)
    return EncoderHeads(observations, summary, segmentation)


def _require_own(
    facts: Mapping[str, Any], dim: float, encoder: EncoderReference, file: Path
) -> None:
    owner = facts.get("encoder", {})
    known = owner.get("fingerprint") if isinstance(owner, dict) else None
    if known != encoder.fingerprint or dim != encoder.dim:
        raise WeightsError(
            "it was made for another encoder than the model's",
            where=file,
            remedy="Make it anew with training/train_observations.py, or remove the file",
            kind="other_encoder",
        )
