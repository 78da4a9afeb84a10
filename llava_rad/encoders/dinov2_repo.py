"""Weights in the original DINOv2 repository's layout, both ways.

The repository names its keys ``blocks.0.attn.qkv.weight``, with ``blocks.0.0.`` where a training
run was sharded in chunks and ``teacher.backbone.`` in front in a training checkpoint. Everything
is accounted for: a key that neither belongs to the encoder nor is known to be something else stops
the load.
"""

import functools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from llava_rad.encoders.dinov2 import Dinov2, Dinov2Encoder
from llava_rad.encoders.positions import (
    PositionInterpolation,
    check_position_interpolation,
    interpolate_positions,
    table_side,
)
from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.repo_checkpoint import backbone_of, require_backbone
from llava_rad.encoders.request import LoadRequest
from llava_rad.encoders.weights import LoadReport, load_into
from llava_rad.errors import WeightsError
from llava_rad.weight_files import read_state_dict
from llava_rad.wording import counted, verb

_TELL_SIZES = ("cls_token", "pos_embed", "patch_embed.proj.weight")

_POSITIONS = "embeddings.position_embeddings"
_BLOCK = re.compile(r"^blocks\.(?:\d+\.)?(\d+)\.(.+)$")  # the index after a chunk counts from 0 too
_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")

# repository name -> transformers name
_OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": _POSITIONS,
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}

# Modules of a block -> the transformers modules whose tensors, one under the other, make the same.
# Where there are two ways, the first is of transformers' files and of its older modules, the
# second of its newer modules.
_MODULES: dict[str, tuple[tuple[str, ...], ...]] = {
    "norm1": (("norm1",),),
    "norm2": (("norm2",),),
    "mlp.fc1": (("mlp.fc1",),),
    "mlp.fc2": (("mlp.fc2",),),
    "mlp.w12": (("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.w3": (("mlp.weights_out",), ("mlp.down_proj",)),
    "attn.qkv": (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "attn.proj": (("attention.output.dense",), ("attention.o_proj",)),
}


def repo_to_transformers(
    state_dict: Mapping[str, Any], *, where: object = None
) -> dict[str, Tensor]:
    """Rename the repository's keys to those of ``Dinov2Model(...).state_dict()``.

    Args:
        state_dict: of the backbone, chunked or not, with or without ``module.``, ``teacher.`` and
            ``backbone.`` in front, or a training checkpoint that holds it, see
            :mod:`llava_rad.encoders.repo_checkpoint`. Of a teacher and a student the teacher is
            taken; the projection heads are left out.
        where: named in errors.

    Returns:
        Keys as the installed transformers names them in memory. Tensors are not copied: what is
        joined there, such as ``qkv``, becomes views.

    Raises:
        WeightsError: a key is neither the encoder's nor known to be left out.
    """
    backbone, _ = backbone_of(state_dict, where)
    renamed: dict[str, Tensor] = {}
    strange = []
    for name, tensor in backbone.items():
        number, inner = match.groups() if (match := _BLOCK.match(name)) else ("", "")
        module, _, kind = inner.rpartition(".")
        layer = f"encoder.layer.{number}"
        if name in _OUTSIDE_BLOCKS:
            renamed[_OUTSIDE_BLOCKS[name]] = tensor
        elif inner in _SCALES:
            renamed[f"{layer}.{_SCALES[inner]}"] = tensor
        elif module in _MODULES and kind in ("weight", "bias"):
            parts = next(way for way in _MODULES[module] if set(way) <= _installed_modules())
            for part, piece in zip(parts, tensor.chunk(len(parts)), strict=False):
                renamed[f"{layer}.{part}.{kind}"] = piece
        else:
            strange.append(name)
    if strange:
        raise _strange_keys(strange, "the DINOv2 repository's layout", where)
    return renamed


def transformers_to_repo(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename transformers' DINOv2 keys to the original repository's, unchunked.

    Args:
        state_dict: of a ``Dinov2Model`` or ``Dinov2WithRegistersModel``, from memory or from its
            ``model.safetensors``, whose names differ.

    Raises:
        WeightsError: a key is not of such a model, or a projection has no counterpart.
    """
    outside = {theirs: ours for ours, theirs in _OUTSIDE_BLOCKS.items()}
    scales = {theirs: ours for ours, theirs in _SCALES.items()}
    modules = {
        part: (module, way) for module, ways in _MODULES.items() for way in ways for part in way
    }
    renamed: dict[str, Tensor] = {}
    strange = []
    for name, tensor in state_dict.items():
        number, inner = match.groups() if (match := _LAYER.match(name)) else ("", "")
        part, _, kind = inner.rpartition(".")
        block = f"blocks.{number}"
        if name in outside:
            renamed[outside[name]] = tensor
        elif inner in scales:
            renamed[f"{block}.{scales[inner]}"] = tensor
        elif part in modules:
            module, way = modules[part]
            siblings = [f"encoder.layer.{number}.{sibling}.{kind}" for sibling in way]
            if not all(sibling in state_dict for sibling in siblings):
                strange.append(name)
            elif part == way[0]:
                pieces = [state_dict[sibling] for sibling in siblings]
                renamed[f"{block}.{module}.{kind}"] = torch.cat(pieces)
        else:
            strange.append(name)
    if strange:
        raise _strange_keys(strange, "transformers' DINOv2 layout", None)
    return renamed


def load_repo_weights(
    model: Dinov2,
    state_dict: Mapping[str, Any],
    *,
    source: object = "state dict",
) -> LoadReport:
    """Fill a transformers model from weights in the repository's layout.

    A position table of another grid is resized (bicubic, to the exact size) with a warning that
    names both grids; nothing else may differ.

    Args:
        model: a ``Dinov2Model`` or ``Dinov2WithRegistersModel`` of the same architecture.
        state_dict: see :func:`repo_to_transformers`.
        source: named in the report and in errors.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    _, left_out = backbone_of(state_dict, source)
    renamed = repo_to_transformers(state_dict, where=source)
    table = renamed.get(_POSITIONS)
    own_table = model.state_dict()[_POSITIONS]
    if table is not None and table.ndim == 3 and table.shape[1] != own_table.shape[1]:
        stored, wanted = table_side(table.shape[1] - 1), table_side(own_table.shape[1] - 1)
        warnings.warn(
            f"{source}: the position table of {stored} x {stored} patches is resized to "
            f"{wanted} x {wanted}",
            stacklevel=2,
        )
        renamed[_POSITIONS] = interpolate_positions(table, (wanted, wanted))
    return load_into(model, {**renamed, **left_out}, source=source, ignore=tuple(left_out))


def load_repo_encoder(
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    num_heads: int | None = None,
    position_interpolation: PositionInterpolation = "scale_offset",
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    layer: int | None = None,
    image_size: int | None = None,
) -> Dinov2Encoder:
    """Load a weight file in the repository's layout; the architecture follows from its shapes.

    Args:
        path: a ``.pth``, ``.pt`` or ``.safetensors`` file.
        preprocessing: how its images were prepared; None reads ``preprocessor_config.json`` beside
            the file.
        num_heads: of attention, which no shape tells; dim / 64 unless told, as in all published
            DINOv2 models.
        position_interpolation: ``scale_offset`` is what the repository's code does as it comes.
            The models with registers that its authors published are run with ``size_antialias``.
        name: given to the encoder; the path unless told.
        dtype: of the weights in memory.
        layer: see :class:`llava_rad.encoders.ImageEncoder`.
        image_size: side of the input, where it shall differ from the preprocessing's.

    Raises:
        WeightsError: the file cannot be read, or a key is missing, unexpected or of another shape.
    """
    path = Path(path)
    request = LoadRequest(
        folder=path.parent,
        name=name or str(path),
        dtype=dtype,
        layer=layer,
        image_size=image_size,
        preprocessing=preprocessing,
    )
    return load_repo_state(
        read_state_dict(path),
        request,
        path,
        num_heads=num_heads,
        position_interpolation=position_interpolation,
    )


def load_repo_state(
    state: Mapping[str, Any],
    request: LoadRequest,
    file: Path,
    *,
    num_heads: int | None = None,
    position_interpolation: PositionInterpolation = "scale_offset",
) -> Dinov2Encoder:
    """:func:`load_repo_encoder` of a file that has been read.

    Args:
        state: content of the file.
        request: with the folder in which the preprocessing lies.
        file: named in errors.
        num_heads: see :func:`load_repo_encoder`.
        position_interpolation: see :func:`load_repo_encoder`.

    Raises:
        WeightsError: a key is missing, unexpected or of another shape.
    """
    config = repo_config(state, num_heads=num_heads, where=file)
    check_position_interpolation(position_interpolation)
    preprocessing = request.final_preprocessing()
    model: Any
    if isinstance(config, Dinov2WithRegistersConfig):
        model = Dinov2WithRegistersModel(config)
    else:
        model = Dinov2Model(config)
    report = load_repo_weights(model, state, source=file)
    encoder = Dinov2Encoder(
        model.to(request.dtype),
        preprocessing,
        name=request.name,
        layer=request.final_layer(),
        position_interpolation=position_interpolation,
    )
    encoder.load_report = report
    return encoder


def repo_config(
    state_dict: Mapping[str, Any], *, num_heads: int | None = None, where: object = None
) -> Dinov2Config | Dinov2WithRegistersConfig:
    """Read transformers' configuration off the shapes of weights in the repository's layout.

    Args:
        state_dict: see :func:`repo_to_transformers`.
        num_heads: of attention; dim / 64 unless told.
        where: named in errors.

    Raises:
        WeightsError: a tensor that tells a size is missing, or the number of heads is needed.
    """
    backbone, _ = backbone_of(state_dict, where)
    require_backbone(backbone, _TELL_SIZES, "DINOv2", where)
    dim = backbone["cls_token"].shape[-1]
    patch_size = backbone["patch_embed.proj.weight"].shape[-1]
    if num_heads is None and dim % 64:
        raise WeightsError(
            f"the number of attention heads of {dim} dimensions is not known",
            where=where,
            remedy="Pass num_heads to load_repo_encoder",
            kind="heads_unknown",
        )
    blocks = {int(match[1]) for key in backbone if (match := _BLOCK.match(key))}
    gated = any(".mlp.w12." in key for key in backbone)
    widths = [t.shape[0] for key, t in backbone.items() if key.endswith("mlp.fc1.weight")]
    options: dict[str, Any] = {
        "hidden_size": dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": num_heads or dim // 64,
        "mlp_ratio": widths[0] // dim if widths else 4,
        "use_swiglu_ffn": gated,
        "patch_size": patch_size,
        "num_channels": backbone["patch_embed.proj.weight"].shape[1],
        "image_size": table_side(backbone["pos_embed"].shape[1] - 1) * patch_size,
        "qkv_bias": any(key.endswith("attn.qkv.bias") for key in backbone),
    }
    if "register_tokens" in backbone:
        registers = backbone["register_tokens"].shape[1]
        return Dinov2WithRegistersConfig(**options, num_register_tokens=registers)
    return Dinov2Config(**options, use_mask_token="mask_token" in backbone)


def _strange_keys(keys: list[str], layout: str, where: object) -> WeightsError:
    shown = ", ".join(keys[:8])
    return WeightsError(
        f"{counted(len(keys), 'key')} {verb(len(keys))} unknown or incomplete in {layout}: {shown}",
        where=where,
        remedy="Use the state dict of a DINOv2 vision transformer",
        kind="keys_do_not_fit",
    )


@functools.cache
def _installed_modules() -> frozenset[str]:
    """Names of the modules inside a block of the installed transformers' DINOv2."""
    names: set[str] = set()
    for gated in (False, True):
        config = Dinov2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, use_swiglu_ffn=gated
        )
        with torch.device("meta"):
            block: Any = Dinov2Model(config).encoder.layer[0]
        names.update(name for name, _ in block.named_modules())
    return frozenset(names)
