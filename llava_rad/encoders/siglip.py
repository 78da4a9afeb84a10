"""SigLIP vision towers of transformers, the first and the second generation.

Patch tokens are those after ``post_layernorm``. SigLIP has no class token: CLS is what its
attention pooling head makes of them, and the mean of the patch tokens for a tower without that head
or for an inner ``layer``.

SigLIP 2 models of a fixed size are of the first kind's architecture. Those of the NaFlex kind
(``siglip2``) take patches of images of any shape; here they get the square images that all
encoders get.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_rad.encoders import hf
from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest

_NOT_VISION = ("text_model.*", "logit_scale", "logit_bias", "*position_ids")


class SiglipEncoder(ImageEncoder):
    """A transformers ``SiglipVisionModel`` or ``Siglip2VisionModel``.

    Args:
        model: the tower.
        preprocessing: makes its input.
        name: what it was loaded as.
        layer: block to take tokens from, see :class:`ImageEncoder`.
    """

    # Published towers rely on it: 384 pixels in patches of 14 make 27 x 27.
    cuts_partial_patches = True

    def __init__(
        self,
        model: SiglipVisionModel | Siglip2VisionModel,
        preprocessing: Preprocessing,
        *,
        name: str = "siglip",
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
            **self._inputs(pixel_values), output_hidden_states=self.layer is not None
        )
        if self.layer is None:
            patches, pooled = output.last_hidden_state, output.pooler_output
        else:
            patches, pooled = output.hidden_states[self.layer], None
        return EncoderOutput(cls=patches.mean(1) if pooled is None else pooled, patches=patches)

    def _inputs(self, pixel_values: Tensor) -> dict[str, Any]:
        if isinstance(self.model, SiglipVisionModel):
            return {"pixel_values": pixel_values, "interpolate_pos_encoding": True}
        side = self.patch_size
        rows, columns = self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        patches = (
            pixel_values[..., : rows * side, : columns * side]
            .unflatten(3, (columns, side))
            .unflatten(2, (rows, side))  # [batch, 3, rows, side, columns, side]
            .permute(0, 2, 4, 3, 5, 1)
            .flatten(3)
            .flatten(1, 2)  # [batch, rows * columns, side * side * 3]
        )
        device = pixel_values.device
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32, device=device),
            "spatial_shapes": torch.tensor([[rows, columns]] * len(patches), device=device),
        }

    def _save_weights(self, folder: Path) -> None:
        hf.save_model(self.model, folder, layer=self.layer)


def load(request: LoadRequest) -> SiglipEncoder:
    """Load the tower from a folder of a whole SigLIP model or of the tower alone.

    Raises:
        WeightsError: any key of the tower is missing, unexpected or of another shape.
    """
    second = request.config["model_type"].startswith("siglip2")
    values = request.config.get("vision_config", request.config)
    config = hf.load_config(
        Siglip2VisionConfig if second else SiglipVisionConfig,
        values,
        request.folder / "config.json",
    )
    model, report = hf.load_model(
        Siglip2VisionModel if second else SiglipVisionModel,
        request.folder,
        config,
        dtype=request.dtype,
        ignore=_NOT_VISION,
    )
    encoder = SiglipEncoder(
        model, request.final_preprocessing(), name=request.name, layer=request.final_layer()
    )
    encoder.load_report = report
    return encoder
