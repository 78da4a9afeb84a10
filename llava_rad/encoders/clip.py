"""CLIP vision towers of transformers.

Both CLS and patch tokens are those after ``post_layernorm``, the tower's final LayerNorm, which
CLIP itself applies to CLS alone: so tokens of all families mean the same stage and are of one
scale. CLS is ``pooler_output``, before the projection into the space shared with text. LLaVA 1.5
uses the patch tokens of ``layer=-2`` instead.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_rad.encoders import hf
from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest

_NOT_VISION = (
    "text_model.*",
    "text_projection.*",
    "visual_projection.*",
    "logit_scale",
    "*position_ids",
)


class ClipEncoder(ImageEncoder):
    """A transformers ``CLIPVisionModel``.

    Args:
        model: the tower.
        preprocessing: makes its input.
        name: what it was loaded as.
        layer: block to take tokens from, see :class:`ImageEncoder`.
    """

    def __init__(
        self,
        model: CLIPVisionModel,
        preprocessing: Preprocessing,
        *,
        name: str = "clip",
        layer: int | None = None,
    ):
        super().__init__(name, preprocessing, layer=layer)
        self.model = model
        config: Any = model.config
        self._freeze(
            dim=config.hidden_size,
            patch_size=int(config.patch_size),
            depth=config.num_hidden_layers,
        )

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        output = self.model(
            pixel_values,
            interpolate_pos_encoding=True,  # does nothing at the tower's own size
            output_hidden_states=self.layer is not None,
        )
        if self.layer is None:
            tokens = hf.tower_of(self.model).post_layernorm(output.last_hidden_state)
        else:
            tokens = output.hidden_states[self.layer]
        return EncoderOutput(cls=tokens[:, 0], patches=tokens[:, 1:])

    def _save_weights(self, folder: Path) -> None:
        hf.save_model(self.model, folder, layer=self.layer)


def load(request: LoadRequest) -> ClipEncoder:
    """Load the tower from a folder of a whole CLIP model or of the tower alone.

    Raises:
        WeightsError: any key of the tower is missing, unexpected or of another shape.
    """
    values = request.config.get("vision_config", request.config)
    config = hf.load_config(CLIPVisionConfig, values, request.folder / "config.json")
    model, report = hf.load_model(
        CLIPVisionModel, request.folder, config, dtype=request.dtype, ignore=_NOT_VISION
    )
    encoder = ClipEncoder(
        model, request.final_preprocessing(), name=request.name, layer=request.final_layer()
    )
    encoder.load_report = report
    return encoder
