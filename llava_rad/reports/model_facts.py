"""What a report's record says of the model that wrote it, without the model."""

from dataclasses import dataclass
from typing import Union

from llava_rad.images.radiograph import Rendering
from llava_rad.model import ReportModel


@dataclass(frozen=True)
class ModelFacts:
    """A model as files of reports name it; the model itself may be in another process.

    Attributes:
        name: of the model.
        folder_hash: of its folder; None for a model made in memory.
        precision: number format of its weights, and how its LLM is quantised.
        rendering: how its pictures are rendered.
    """

    name: str
    folder_hash: str | None
    precision: str
    rendering: Rendering

    @classmethod
    def of(cls, model: Union[ReportModel, "ModelFacts"]) -> "ModelFacts":
        """The facts of a model; facts are returned as they are."""
        if isinstance(model, ModelFacts):
            return model
        return cls(
            name=model.config.name,
            folder_hash=model.folder_hash,
            precision=f"{model.encoder.dtype}, {model.quantize or 'not quantised'}",
            rendering=model.processor.preprocessing.rendering,
        )
