"""DINOv3 vision transformers: patches of 16, register tokens, rotary positions without a table.

A folder holds transformers' ``config.json`` and ``model.safetensors``. A weight file in the layout
of the original repository (``storage_tokens``, ``rope_embed.periods``) is read too, the teacher of
a training checkpoint as well; its sizes follow from the shapes.

Patch tokens and CLS are those after the final LayerNorm.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from llava_rad.encoders import hf
from llava_rad.encoders.base import EncoderOutput, ImageEncoder
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.repo_checkpoint import backbone_of, require_backbone
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError

_THETA = 100.0  # base of the rotary periods in every published model
_BLOCK = re.compile(r"^blocks\.(?:\d+\.)?(\d+)\.(.+)$")
# repository name -> transformers name
_OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_IN_BLOCKS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.up_proj",
    "mlp.w3": "mlp.down_proj",
}
_SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
# The periods are computed, the mask says that keys have no bias, and the norm of the CLS tokens of
# local crops is of the training alone.
_NOT_READ = ("rope_embed.periods", "local_cls_norm.*", "*.attn.qkv.bias_mask")


class Dinov3Encoder(ImageEncoder):
    """A transformers ``DINOv3ViTModel``.

    Args:
        model: the vision transformer.
        preprocessing: makes its input.
        name: what it was loaded as.
        layer: block to take tokens from, see :class:`ImageEncoder`.
    """

    def __init__(
        self,
        model: DINOv3ViTModel,
        preprocessing: Preprocessing,
        *,
        name: str = "dinov3",
        layer: int | None = None,
    ):
        super().__init__(name, preprocessing, layer=layer)
        self.model = model
        config: Any = model.config
        self.num_registers = int(config.num_register_tokens)
        self._freeze(
            dim=config.hidden_size,
            patch_size=int(config.patch_size),
            depth=config.num_hidden_layers,
        )

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        output: Any = self.model(pixel_values, output_hidden_states=self.layer is not None)
        # transformers' hidden_states[-1] is the last block's output, before the final norm.
        tokens = (
            output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        )
        return EncoderOutput(cls=tokens[:, 0], patches=tokens[:, 1 + self.num_registers :])

    def _save_weights(self, folder: Path) -> None:
        hf.save_model(self.model, folder, layer=self.layer)


def load(request: LoadRequest) -> Dinov3Encoder:
    """Load a transformers DINOv3 folder.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
    """
    config = hf.load_config(DINOv3ViTConfig, request.config, request.folder / "config.json")
    model, report = hf.load_model(
        DINOv3ViTModel,
        request.folder,
        config,
        dtype=request.dtype,
        ignore=("classifier.*",),  # of the classification models saved in the same layout
    )
    encoder = Dinov3Encoder(
        model, request.final_preprocessing(), name=request.name, layer=request.final_layer()
    )
    encoder.load_report = report
    return encoder


def is_repo_state(state: Mapping[str, Any]) -> bool:
    """Whether a weight file is of the original DINOv3 repository."""
    backbone, _ = backbone_of(state, None)
    return "storage_tokens" in backbone or "rope_embed.periods" in backbone


def load_repo_state(state: Mapping[str, Any], request: LoadRequest, file: Path) -> Dinov3Encoder:
    """Make an encoder from weights in the original repository's layout.

    Args:
        state: content of the file.
        request: with the folder beside which the preprocessing lies.
        file: named in errors.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape, or the rotary positions
            are of another kind.
    """
    backbone, left_out = backbone_of(state, file)
    model: Any = DINOv3ViTModel(_repo_config(backbone, file))
    own = model.state_dict()
    # transformers nests the blocks in its newer versions.
    inner = "model.layer" if any(key.startswith("model.layer.") for key in own) else "layer"
    renamed: dict[str, Tensor] = {}
    for name, tensor in backbone.items():
        renamed |= _renamed(name, tensor, inner)
    # Of no use where nothing is masked, and some files leave it out.
    renamed.setdefault("embeddings.mask_token", own["embeddings.mask_token"])
    report = load_into(model, {**renamed, **left_out}, source=file, ignore=(*_NOT_READ, *left_out))
    encoder = Dinov3Encoder(
        model.to(request.dtype),
        request.final_preprocessing(),
        name=request.name,
        layer=request.final_layer(),
    )
    encoder.load_report = report
    return encoder


def _renamed(name: str, tensor: Tensor, inner: str) -> dict[str, Tensor]:
    """A tensor of the repository under transformers' names; unknown ones keep theirs."""
    match = _BLOCK.match(name)
    if match is None:
        shaped = tensor.reshape(1, 1, -1) if name == "mask_token" else tensor
        return {_OUTSIDE_BLOCKS.get(name, name): shaped}
    layer = f"{inner}.{match[1]}"
    module, _, kind = match[2].rpartition(".")
    if match[2] in _SCALES:
        return {f"{layer}.{_SCALES[match[2]]}": tensor}
    if module in _IN_BLOCKS and kind in ("weight", "bias"):
        return {f"{layer}.{_IN_BLOCKS[module]}.{kind}": tensor}
    if module == "attn.qkv" and kind in ("weight", "bias"):
        query, key, value = tensor.chunk(3)
        pieces = {"q_proj": query, "v_proj": value}
        if kind == "weight":
            pieces["k_proj"] = key
        return {f"{layer}.attention.{part}.{kind}": piece for part, piece in pieces.items()}
    return {name: tensor}


def _repo_config(backbone: Mapping[str, Tensor], file: Path) -> DINOv3ViTConfig:
    needed = ("cls_token", "patch_embed.proj.weight", "rope_embed.periods")
    require_backbone(backbone, needed, "DINOv3", file)
    dim = backbone["cls_token"].shape[-1]
    periods = backbone["rope_embed.periods"].float()
    expected = _THETA ** (torch.arange(len(periods)) / len(periods))
    if not torch.allclose(periods, expected, rtol=0.01):  # they may be stored in bfloat16
        raise WeightsError(
            "the periods of the rotary positions are not those of DINOv3",
            where=file,
            remedy="Use published weights, or a transformers folder with its own rope_theta",
            kind="position_table",
        )
    blocks = {int(match[1]) for key in backbone if (match := _BLOCK.match(key))}
    inner = {match[2]: t for key, t in backbone.items() if (match := _BLOCK.match(key))}
    biased = "attn.qkv.bias" in inner
    _require_no_key_bias(backbone, file)
    up = inner.get("mlp.fc1.weight", inner.get("mlp.w1.weight"))
    registers = backbone.get("storage_tokens")
    return DINOv3ViTConfig(
        hidden_size=dim,
        num_hidden_layers=len(blocks),
        num_attention_heads=dim // (4 * len(periods)),
        intermediate_size=0 if up is None else up.shape[0],
        use_gated_mlp="mlp.w1.weight" in inner,
        hidden_act="silu" if "mlp.w1.weight" in inner else "gelu",
        patch_size=backbone["patch_embed.proj.weight"].shape[-1],
        num_register_tokens=0 if registers is None else registers.shape[1],
        query_bias=biased,
        key_bias=False,
        value_bias=biased,
        proj_bias="attn.proj.bias" in inner,
        mlp_bias="mlp.fc2.bias" in inner or "mlp.w3.bias" in inner,
    )


def _require_no_key_bias(backbone: Mapping[str, Tensor], file: Path) -> None:
    """In DINOv3 the bias of the keys is masked out; without a mask it has to be zero."""
    for key, bias in backbone.items():
        unmasked = key.endswith("attn.qkv.bias") and f"{key}_mask" not in backbone
        if unmasked and bias.chunk(3)[1].any():
            raise WeightsError(
                f"{key} has a bias of the keys, which DINOv3 does not have",
                where=file,
                remedy="Use published weights, or a transformers folder",
                kind="keys_do_not_fit",
            )
