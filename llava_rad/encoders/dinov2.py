"""DINOv2 encoders, with and without registers: RAD-DINO, DINOv2, and what this project pretrains.

A folder holds transformers' ``config.json`` and ``model.safetensors`` and the project's
``preprocessor_config.json``; plain transformers loads the same folder.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from llava_rad.encoders import hf
from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.positions import (
    PositionInterpolation,
    check_position_interpolation,
    interpolate_positions,
)
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.errors import ModelError

Dinov2 = Dinov2Model | Dinov2WithRegistersModel

# What transformers' two classes do when nothing else is said.
_NATIVE_INTERPOLATION: dict[str, PositionInterpolation] = {
    "dinov2": "size",
    "dinov2_with_registers": "size_antialias",
}


class Dinov2Encoder(ImageEncoder):
    """A transformers DINOv2 model; CLS and patch tokens after the final LayerNorm.

    Args:
        model: a ``Dinov2Model`` or ``Dinov2WithRegistersModel``.
        preprocessing: makes its input.
        name: what it was loaded as.
        layer: block to take tokens from, see :class:`ImageEncoder`.
        position_interpolation: see :mod:`llava_rad.encoders.positions`; by default what the
            model's configuration says, else what transformers does.
    """

    def __init__(
        self,
        model: Dinov2,
        preprocessing: Preprocessing,
        *,
        name: str = "dinov2",
        layer: int | None = None,
        position_interpolation: PositionInterpolation | None = None,
    ):
        super().__init__(name, preprocessing, layer=layer)
        config: Any = model.config
        native = _NATIVE_INTERPOLATION[config.model_type]
        chosen = check_position_interpolation(
            position_interpolation or getattr(config, "position_interpolation", native)
        )
        config.position_interpolation = chosen
        self.position_interpolation = chosen
        if chosen != native:
            embeddings: Any = model.embeddings
            embeddings.interpolate_pos_encoding = functools.partial(
                _interpolate, embeddings, chosen
            )
        self.model = model
        self.num_registers = int(getattr(config, "num_register_tokens", 0))
        self._freeze(
            dim=config.hidden_size,
            patch_size=int(config.patch_size),
            depth=config.num_hidden_layers,
        )

    def encode(self, pixel_values: Tensor, masks: Tensor | None = None) -> EncoderOutput:
        """Encode a batch, with some patches replaced by the mask token if asked.

        Args:
            pixel_values: [batch, 3, height, width].
            masks: bool [batch, tokens], true where a patch is hidden from the encoder.
        """
        if masks is None:
            return super().encode(pixel_values)
        rows, columns = self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        if masks.dtype != torch.bool or masks.shape != (len(pixel_values), rows * columns):
            raise ModelError(
                f"expected masks bool [{len(pixel_values)}, {rows * columns}], "
                f"got {masks.dtype} {list(masks.shape)}",
                where=self.name,
            )
        if self.model.embeddings.mask_token is None:
            raise ModelError(
                "the encoder was saved without a mask token", where=self.name, remedy="Omit masks"
            )
        return self._encode(pixel_values.to(self.dtype), masks)

    def _encode(self, pixel_values: Tensor, masks: Tensor | None = None) -> EncoderOutput:
        output = self.model(
            pixel_values, bool_masked_pos=masks, output_hidden_states=self.layer is not None
        )
        # transformers' hidden_states[-1] is the last block's output, before the final norm.
        tokens = (
            output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        )
        return EncoderOutput(cls=tokens[:, 0], patches=tokens[:, 1 + self.num_registers :])

    def _save_weights(self, folder: Path) -> None:
        hf.save_model(self.model, folder, layer=self.layer)

    def _settings(self) -> dict[str, object]:
        return {"position_interpolation": self.position_interpolation}


def _interpolate(
    embeddings: nn.Module,
    convention: PositionInterpolation,
    tokens: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """Stands in for the method of the same purpose of transformers' embeddings."""
    table: Any = embeddings.position_embeddings
    patch: Any = embeddings.patch_size
    return interpolate_positions(table, (height // patch, width // patch), convention)


def load(request: LoadRequest) -> Dinov2Encoder:
    """Load a transformers DINOv2 folder.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
    """
    registers = request.config["model_type"] == "dinov2_with_registers"
    config_class = Dinov2WithRegistersConfig if registers else Dinov2Config
    model_class = Dinov2WithRegistersModel if registers else Dinov2Model
    config = hf.load_config(config_class, request.config, request.folder / "config.json")
    model, report = hf.load_model(
        model_class,
        request.folder,
        config,
        dtype=request.dtype,
        ignore=("classifier.*",),  # of the classification models saved in the same layout
    )
    encoder = Dinov2Encoder(
        model, request.final_preprocessing(), name=request.name, layer=request.final_layer()
    )
    encoder.load_report = report
    return encoder
