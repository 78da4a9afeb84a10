"""Encoders and the configurations that transformers' composite models keep of their parts.

Such a model writes one ``config.json`` for all its parts and makes them from it before the weights
are read. Here a tower's configuration becomes the encoder around it, and an encoder gives the one
that describes it. ``feature_layer`` in it is the block that the tokens come from.
"""

import copy
from typing import Any

from transformers import (
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
    TimmWrapperConfig,
)

from llava_rad.encoders.base import ImageEncoder
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.dinov3 import Dinov3Encoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.encoders.timm_vit import TimmEncoder, make_trunk
from llava_rad.errors import ModelError, shown

#: model_type of a tower -> what it is in transformers and here.
TOWERS: dict[str, tuple[type[PreTrainedModel], type[ImageEncoder]]] = {
    "clip_vision_model": (CLIPVisionModel, ClipEncoder),
    "dinov2": (Dinov2Model, Dinov2Encoder),
    "dinov2_with_registers": (Dinov2WithRegistersModel, Dinov2Encoder),
    "dinov3_vit": (DINOv3ViTModel, Dinov3Encoder),
    "siglip_vision_model": (SiglipVisionModel, SiglipEncoder),
    "siglip2_vision_model": (Siglip2VisionModel, SiglipEncoder),
}
_TIMM = TimmWrapperConfig.model_type


def encoder_from_config(config: PreTrainedConfig, preprocessing: Preprocessing) -> ImageEncoder:
    """The encoder that a configuration describes, with random weights.

    Args:
        config: of a tower in :data:`TOWERS`, or of a vision transformer of timm.
        preprocessing: makes its input.

    Raises:
        ModelError: no encoder is of this kind.
        WeightsError: timm knows no such vision transformer.
    """
    layer = getattr(config, "feature_layer", None)
    if config.model_type in TOWERS:
        model_class, encoder_class = TOWERS[config.model_type]
        make: Any = encoder_class
        return make(model_class(config), preprocessing, name=config.model_type, layer=layer)
    if not isinstance(config, TimmWrapperConfig):
        raise ModelError(
            f"a vision tower of the kind {shown(config.model_type)} is not supported",
            remedy=f"Supported: {', '.join(TOWERS)}, {_TIMM}",
            kind="unsupported_tower",
        )
    model_args = dict(config.model_args or {})
    return TimmEncoder(
        make_trunk(config.architecture, model_args, where=config.architecture),
        preprocessing,
        architecture=config.architecture,
        model_args=model_args,
        layer=layer,
    )


def config_of(encoder: ImageEncoder) -> Any:
    """The configuration from which :func:`encoder_from_config` makes such an encoder.

    Raises:
        ModelError: transformers has no configuration for it.
    """
    config: Any
    if isinstance(encoder, TimmEncoder):
        config = TimmWrapperConfig(
            architecture=encoder.architecture,
            model_args=dict(encoder.model_args),
            do_pooling=False,
        )
    elif isinstance(tower := getattr(encoder, "model", None), PreTrainedModel):
        config = copy.deepcopy(tower.config)
        config.name_or_path = ""  # often a path of this machine
    else:
        raise ModelError(
            f"transformers has no configuration for a {type(encoder).__name__}",
            where=encoder.name,
            remedy=f"Use an encoder of the kind {', '.join(TOWERS)}, or a vision transformer of "
            "timm",
            kind="unsupported_tower",
        )
    config.feature_layer = encoder.layer
    return config
