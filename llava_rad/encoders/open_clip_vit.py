"""Vision towers of open_clip models: BiomedCLIP, LLaVA-Rad's BiomedCLIP-CXR, and plain ones.

A model is a JSON configuration and a checkpoint of image and text tower together. A tower that is
a timm trunk becomes a :class:`TimmEncoder`; open_clip's own ViT is CLIP's under other names and
becomes a :class:`ClipEncoder`. Neither needs the open_clip package. Saved again, they are a timm
or a transformers folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_rad.encoders import hf
from llava_rad.encoders.base import ImageEncoder
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.preprocessing import CLIP_MEAN, CLIP_STD, FILE_NAME, Preprocessing
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.timm_vit import TimmEncoder, make_trunk
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError
from llava_rad.readers import read_json
from llava_rad.weight_files import read_state_dict

_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_NOT_THE_TRUNK = (
    "text.*",
    "logit_scale",
    "logit_bias",
    "visual.head.*",
    "visual.trunk.head.*",
    # where the text tower is not a module of its own
    "transformer.*",
    "token_embedding.*",
    "positional_embedding",
    "ln_final.*",
    "text_projection",
    "visual.proj",
)
# Settings of open_clip's own ViT under which it is no longer CLIP's.
_UNLIKE_CLIP = (
    "ls_init_value",
    "attentional_pool",
    "no_ln_pre",
    "final_ln_after_pool",
    "act_kwargs",
    "norm_kwargs",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)

_CLIP_NAMES = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "pre_layrnorm.weight",
    "visual.ln_pre.bias": "pre_layrnorm.bias",
    "visual.ln_post.weight": "post_layernorm.weight",
    "visual.ln_post.bias": "post_layernorm.bias",
}
_CLIP_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_CLIP_BLOCK = re.compile(r"^visual\.transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)$")


def load_open_clip(
    config_path: str | Path,
    weights_path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    layer: int | None = None,
    image_size: int | None = None,
) -> ImageEncoder:
    """Load the vision tower of an open_clip model from its two files.

    Args:
        config_path: JSON with ``vision_cfg``, or with it and ``preprocess_cfg`` under
            ``model_cfg`` as on the hub.
        weights_path: safetensors or PyTorch; the state dict, or a training checkpoint that holds
            it under ``state_dict``, with or without ``module.`` in front of the keys.
        preprocessing: instead of open_clip's own for this configuration.
        name: given to the encoder; the weights' path unless told.
        dtype: of the weights in memory; published files are often half precision.
        layer: see :class:`ImageEncoder`. LLaVA-Rad uses -2.
        image_size: side of the input, where it shall differ from the configuration's.

    Raises:
        WeightsError: a file cannot be read, the tower is not supported, or a key of it is missing,
            unexpected or of another shape.
    """
    config_path, weights_path = Path(config_path), Path(weights_path)
    config = _read_config(config_path)
    vision = config["model_cfg"]["vision_cfg"]
    chosen = preprocessing or _published_preprocessing(config, where=config_path)
    chosen = chosen.with_image_size(image_size or chosen.image_size)
    state = read_state_dict(weights_path)
    state = state.get("state_dict", state)
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    name = name or str(weights_path)

    encoder: ImageEncoder
    if "timm_model_name" in vision:
        architecture = vision["timm_model_name"]
        trunk = make_trunk(architecture, {}, where=config_path)
        classifier = "visual.trunk.head."
        tower = {
            key if key.startswith(classifier) else key.removeprefix("visual.trunk."): tensor
            for key, tensor in state.items()
        }
        report = load_into(trunk, tower, source=weights_path, ignore=_NOT_THE_TRUNK)
        encoder = TimmEncoder(
            trunk.to(dtype), chosen, architecture=architecture, name=name, layer=layer
        )
    else:
        model: Any = CLIPVisionModel(_clip_config(config["model_cfg"], where=config_path))
        tower = _clip_names(state)
        report = load_into(hf.tower_of(model), tower, source=weights_path, ignore=_NOT_THE_TRUNK)
        encoder = ClipEncoder(model.to(dtype), chosen, name=name, layer=layer)
    encoder.load_report = report
    return encoder


def load(request: LoadRequest) -> ImageEncoder:
    """Load a folder laid out as open_clip models on the hub are.

    Raises:
        WeightsError: see :func:`load_open_clip`.
    """
    folder = request.folder
    file = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "there are no weights in the folder",
            where=folder,
            remedy=f"Put one of {', '.join(_WEIGHT_FILES)} there; a download may be incomplete",
            kind="no_weights",
        )
    own = Preprocessing.read(folder) if (folder / FILE_NAME).is_file() else None
    return load_open_clip(
        folder / _CONFIG_FILE,
        file,
        preprocessing=request.preprocessing or own,
        name=request.name,
        dtype=request.dtype,
        layer=request.layer,
        image_size=request.image_size,
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, error=WeightsError, expect=dict, remedy="Restore the file")
    if "model_cfg" not in config:
        config = {"model_cfg": config}
    if "vision_cfg" not in config["model_cfg"]:
        raise WeightsError(
            "there is no vision_cfg in the configuration",
            where=path,
            remedy="Name the JSON file of an open_clip model",
            kind="bad_config",
        )
    return config


def _published_preprocessing(config: Mapping[str, Any], *, where: object) -> Preprocessing:
    """What open_clip's evaluation transform does; its defaults are part of the format."""
    given = config.get("preprocess_cfg", {})
    mode = given.get("resize_mode") or "shortest"
    size = given.get("size") or config["model_cfg"]["vision_cfg"].get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if mode not in ("shortest", "squash") or len(sides) != 1:
        raise WeightsError(
            f"images prepared with resize_mode '{mode}' to {size} are not supported",
            where=where,
            remedy="Pass preprocessing=Preprocessing(...)",
            kind="unsupported_preprocessing",
        )
    return Preprocessing(
        image_size=sides.pop(),
        mean=given.get("mean") or CLIP_MEAN,
        std=given.get("std") or CLIP_STD,
        geometry="resize" if mode == "squash" else "shorter_side_center_crop",
        interpolation=given.get("interpolation") or "bicubic",
        crop_rounding="half_even",
    )


def _clip_config(model_cfg: Mapping[str, Any], *, where: object) -> CLIPVisionConfig:
    vision = model_cfg["vision_cfg"]
    unlike = [key for key in _UNLIKE_CLIP if vision.get(key)]
    if not isinstance(vision.get("layers", 12), int):
        unlike.append("layers")
    if unlike:
        raise WeightsError(
            f"this open_clip tower is not a plain ViT ({', '.join(unlike)} set)",
            where=where,
            remedy="Use a model with a plain or a timm ViT as its vision tower",
            kind="unsupported_family",
        )
    width = vision.get("width", 768)
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=int(width * vision.get("mlp_ratio", 4.0)),
        num_hidden_layers=vision.get("layers", 12),
        num_attention_heads=width // vision.get("head_width", 64),
        image_size=vision.get("image_size", 224),
        patch_size=vision.get("patch_size", 16),
        hidden_act="quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
    )


def _clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip's own ViT to transformers' CLIP; what is not of it keeps its name."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        block = _CLIP_BLOCK.match(key)
        if key in _CLIP_NAMES:
            renamed[_CLIP_NAMES[key]] = tensor
        elif block and block[2] == "attn.in_proj":
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"encoder.layers.{block[1]}.self_attn.{part}_proj.{block[3]}"] = piece
        elif block and block[2] in _CLIP_BLOCK_NAMES:
            inner = _CLIP_BLOCK_NAMES[block[2]]
            renamed[f"encoder.layers.{block[1]}.{inner}.{block[3]}"] = tensor
        else:
            renamed[key] = tensor
    return renamed
