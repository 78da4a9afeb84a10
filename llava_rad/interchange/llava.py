"""Checkpoints of the LLaVA code: LLaVA 1.5 and LLaVA-Rad.

They come in three kinds, told apart by the files in the folder and never by its name:

- **LoRA**: ``adapter_config.json``, ``adapter_model.bin`` or ``.safetensors``, and the projector in
  ``non_lora_trainables.bin``; the base LLM is only named.
- **projector**: ``mm_projector.bin`` alone, as alignment leaves it; the base LLM is only named.
- **full**: all weights of the LLM with the projector among them.

The vision tower is only named in each: a CLIP model, or (LLaVA-Rad) an open_clip JSON and
checkpoint. Vision weights that lie in the folder nevertheless are not used, as the original code
does not use them, unless ``unfreeze_mm_vision_tower`` says that they were trained.

None of them records the wording of the prompt: unless told, it is LLaVA-Rad's request, in Vicuna's
turns or, on a Mistral (LLaVA-Med, LLaVA 1.6), in Mistral's.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from llava_rad.encoders import ImageEncoder, load_encoder
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.hf import load_config
from llava_rad.encoders.open_clip_vit import load_open_clip
from llava_rad.errors import ModelError, WeightsError
from llava_rad.interchange.parts import Parts, Sources, conversation, reference_of, route
from llava_rad.interchange.state import module_from_state, read_weights
from llava_rad.interchange.towers import (
    block_layer,
    require_one_leading_token,
    require_table_size,
)
from llava_rad.model import LLMReference, PromptTemplate, load_llm, load_tokenizer
from llava_rad.model.llm import llm_config
from llava_rad.model.lora import merge_lora, put_lora, read_lora_config, wrap_with_lora
from llava_rad.model.tokenizer import read_tokenizer
from llava_rad.readers import read_json
from llava_rad.weight_files import read_state_dict

LORA_CONFIG = "adapter_config.json"
LORA_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
NOT_LORA = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"

# config.json's model_type -> what its LLM is.
_FAMILIES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "llava": (LlamaConfig, LlamaForCausalLM),
    "llava_llama": (LlamaConfig, LlamaForCausalLM),
    "llava_mistral": (MistralConfig, MistralForCausalLM),
}
# Old spellings that transformers still reads, besides the fields of today's configurations.
_OLD_FIELDS = {"rope_theta", "rope_scaling", "torch_dtype"}

# Fields on which checkpoint and base LLM have to agree: with other values it is another model.
_ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
)

# Settings of the LLaVA code under which the model is another one, and the values read here.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "mm_vision_select_feature": (None, "patch"),
    "image_aspect_ratio": (None, "square", "pad"),
    "mm_use_im_start_end": (None, False),
    "mm_patch_merge_type": (None, "flat"),
    "mm_resampler_type": (None,),
    "s2": (None, False),
    "quantization_config": (None,),
}

_RULES = (
    ("model.mm_projector.", "projector", ""),
    ("mm_projector.", "projector", ""),
    ("model.vision_tower.", "tower", ""),
    ("model.", "llm", "model."),
    ("lm_head.", "llm", "lm_head."),
)


def read(folder: Path, config: Mapping[str, Any], sources: Sources) -> tuple[Parts, int]:
    """Read a checkpoint of any of the three kinds.

    Args:
        folder: of the checkpoint.
        config: content of its ``config.json``.
        sources: where the base LLM and the vision tower are.

    Returns:
        The parts, and the number of layers of the projector.

    Raises:
        WeightsError: a file or tensor is missing, damaged or too many.
        ModelError: the checkpoint is of a kind that this project's model cannot express.
    """
    where = folder / "config.json"
    for key, allowed in _ALLOWED.items():
        if config.get(key) not in allowed:
            raise ModelError(
                f"{key} is {config[key]!r}, which is not supported",
                where=where,
                remedy="Supported are single square or padded images, patch features, no extra "
                "tokens around the image, and unquantised weights",
                kind="unsupported_setting",
            )
    layers = _projector_layers(config, where)

    kind: Callable[[Path, Mapping[str, Any], Sources], _LanguagePart]
    if (folder / LORA_CONFIG).is_file():
        layout, kind = "llava-lora", _read_lora
    elif (folder / PROJECTOR).is_file():
        layout, kind = "llava-projector", _read_projector
    else:
        layout, kind = "llava-full", _read_full
    language = kind(folder, config, sources)

    encoder, ignored = _tower(folder, config, sources, language.tower)
    notes = []
    if ignored:
        notes.append(
            f"tower: {len(ignored)} vision tensors in the checkpoint were left out; the tower's "
            "own files count, as in the LLaVA code"
        )
    name, wording = conversation(config.get("model_type"))
    if sources.template is None:
        notes.append(f"prompt: {name}; these checkpoints do not record theirs")
    parts = Parts(
        layout=layout,
        encoder=encoder,
        projector=language.projector,
        llm=language.llm,
        reference=language.reference,
        llm_weights=language.weights,
        tokenizer=language.tokenizer,
        template=sources.template or PromptTemplate(**wording),
        ignored=ignored,
        notes=notes,
    )
    return parts, layers


class _LanguagePart:
    """LLM, projector, and what else lay beside them."""

    def __init__(
        self,
        llm: Any,
        reference: LLMReference,
        tokenizer: Any,
        weights: str,
        parts: dict[str, dict[str, Tensor]],
    ) -> None:
        self.llm = llm
        self.reference = reference
        self.tokenizer = tokenizer
        self.weights = weights
        self.projector = {_adapter_name(key): t for key, t in parts["projector"].items()}
        self.tower = parts["tower"]


def _read_full(folder: Path, config: Mapping[str, Any], sources: Sources) -> _LanguagePart:
    parts = route(read_weights(folder), _RULES, source=folder)
    llm = _llm_from(parts["llm"], config, sources.dtype, folder)
    name = str(config.get("_name_or_path") or folder.name)
    return _LanguagePart(llm, reference_of(llm, name), read_tokenizer(folder), "full", parts)


def _read_projector(folder: Path, config: Mapping[str, Any], sources: Sources) -> _LanguagePart:
    base = _base_llm(folder, config, sources, config.get("_name_or_path"))
    parts = _beside_base(folder / PROJECTOR)
    if _override(base.llm, parts["llm"], folder / PROJECTOR):
        base.weights = "full"
    return _LanguagePart(base.llm, base.reference, base.tokenizer, base.weights, parts)


def _read_lora(folder: Path, config: Mapping[str, Any], sources: Sources) -> _LanguagePart:
    recorded = (
        _read_json(folder / LORA_CONFIG).get("base_model_name_or_path"),
        config.get("_name_or_path"),
    )
    base = _base_llm(folder, config, sources, _reachable(recorded, folder))
    if not (folder / NOT_LORA).is_file():
        raise WeightsError(
            "the projector is missing: a LoRA checkpoint of LLaVA keeps it here",
            where=folder / NOT_LORA,
            remedy="Take the folder that training wrote at its end; intermediate ones lack it",
            kind="missing_file",
        )
    parts = _beside_base(folder / NOT_LORA)
    changed = _override(base.llm, parts["llm"], folder / NOT_LORA)
    llm = _attach_lora(base.llm, folder)
    weights = "lora"
    if changed or base.weights == "full":
        # The published base LLM plus the LoRA would be another model.
        llm, weights = merge_lora(llm), "full"
    return _LanguagePart(llm, base.reference, base.tokenizer, weights, parts)


def _base_llm(
    folder: Path, config: Mapping[str, Any], sources: Sources, recorded: str | None
) -> _LanguagePart:
    name = sources.base_llm or recorded
    if not name:
        raise WeightsError(
            "the checkpoint does not say which LLM it was trained on",
            where=folder,
            remedy="Give base_llm: a folder or a hub id",
            kind="llm_not_found",
        )
    place = _locate(name, folder)
    reference = str(place.resolve()) if place else name
    if place and (base := _config_of(place)) and "mm_vision_tower" in base:
        # Trained on top of a LLaVA model: that one's LLM.
        part = _read_full(place, base, sources)
    else:
        dtype = sources.dtype or llm_config(reference).dtype or torch.float32
        llm, described = load_llm(reference, dtype=dtype)
        nothing: dict[str, dict[str, Tensor]] = {"projector": {}, "tower": {}}
        part = _LanguagePart(llm, described, load_tokenizer(reference), "base", nothing)
    _require_same_architecture(config, part.llm, where=folder / "config.json")
    return part


def _require_same_architecture(config: Mapping[str, Any], llm: Any, *, where: Path) -> None:
    expected, found = _llm_config(config, where), llm.config
    differing = [
        f"{key} {getattr(found, key, None)!r} against {getattr(expected, key, None)!r}"
        for key in ("model_type", *_ARCHITECTURE)
        if getattr(found, key, None) != getattr(expected, key, None)
    ]
    if differing:
        raise ModelError(
            "the base LLM is not the one of the checkpoint: " + "; ".join(differing),
            where=where,
            remedy="Give the base_llm that the checkpoint was trained on",
            kind="wrong_llm",
        )


def _llm_config(config: Mapping[str, Any], where: Path) -> PreTrainedConfig:
    config_class, _ = _family(config, where)
    known = set(config_class().to_dict()) | _OLD_FIELDS
    known -= {"model_type"} | {key for key in _OLD_FIELDS if config.get(key) is None}
    return load_config(config_class, {k: v for k, v in config.items() if k in known}, where)


def _family(
    config: Mapping[str, Any], where: Path
) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    found = _FAMILIES.get(str(config.get("model_type")))
    if found is None:
        raise ModelError(
            f"model_type {config.get('model_type')!r} is not a supported LLaVA model",
            where=where,
            remedy=f"Supported: {', '.join(_FAMILIES)}",
            kind="unsupported_setting",
        )
    return found


def _llm_from(
    state: dict[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype | None, folder: Path
) -> Any:
    where = folder / "config.json"
    table = state.get("model.embed_tokens.weight")
    stored = torch.float32 if table is None else table.dtype
    return module_from_state(
        _family(config, where)[1],
        _llm_config(config, where),
        state,
        dtype=dtype or stored,
        source=f"{folder} (LLM)",
    )


def _beside_base(file: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors that were trained besides a LoRA or alone, by part."""
    state = {k.removeprefix("base_model.model."): t for k, t in read_state_dict(file).items()}
    return route(state, _RULES, source=file)


def _override(llm: Any, state: Mapping[str, Tensor], file: Path) -> bool:
    """Put tensors of the LLM that were trained whole in place; whether there were any."""
    own = dict(llm.named_parameters())
    wrong = [key for key, t in state.items() if key not in own or own[key].shape != t.shape]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors do not fit the base LLM: {', '.join(sorted(wrong)[:5])}",
            where=file,
            remedy="Give the base_llm that the checkpoint was trained on",
            kind="unexpected_keys",
        )
    with torch.no_grad():
        for key, tensor in state.items():
            own[key].copy_(tensor)
    return bool(state)


def _attach_lora(llm: Any, folder: Path) -> Any:
    file = next((folder / name for name in LORA_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "the LoRA's weights are missing",
            where=folder,
            remedy=f"Put {' or '.join(LORA_WEIGHTS)} there",
            kind="missing_file",
        )
    try:
        wrapped = wrap_with_lora(llm, read_lora_config(folder), trainable=False)
    except ModelError as error:
        raise ModelError(
            f"the LoRA does not fit the LLM ({error.what})",
            where=folder / LORA_CONFIG,
            remedy="Give the base_llm that the LoRA was trained on",
            kind="wrong_llm",
        ) from error
    put_lora(wrapped, read_state_dict(file), where=file)
    return wrapped


def _tower(
    folder: Path, config: Mapping[str, Any], sources: Sources, stored: dict[str, Tensor]
) -> tuple[ImageEncoder, tuple[str, ...]]:
    """The vision tower, and the keys among ``stored`` that were not used."""
    where = folder / "config.json"
    encoder = _load_tower(folder, config, sources)
    encoder.layer = block_layer(config.get("mm_vision_select_layer"), encoder.depth, where=where)
    if config.get("image_aspect_ratio") == "pad":
        own = encoder.preprocessing
        if own.shorter_side not in (None, own.image_size):
            raise ModelError(
                "images are to be padded, but the tower's preprocessing cuts a border off",
                where=where,
                kind="unsupported_setting",
            )
        encoder.preprocessing = replace(own, geometry="pad_square", shorter_side=None)
    require_one_leading_token(encoder, where=encoder.name)
    require_table_size(encoder, where=encoder.name)
    if encoder.dim != config.get("mm_hidden_size", encoder.dim):
        raise WeightsError(
            f"the vision tower gives {encoder.dim} dims, the projector takes "
            f"{config['mm_hidden_size']}",
            where=encoder.name,
            remedy="Give the vision_tower that the checkpoint was trained with",
            kind="wrong_encoder",
        )
    if stored and config.get("unfreeze_mm_vision_tower"):
        return _trained_tower(encoder, stored, folder), ()
    return encoder, tuple(sorted(f"model.vision_tower.{key}" for key in stored))


def _load_tower(folder: Path, config: Mapping[str, Any], sources: Sources) -> ImageEncoder:
    named = sources.vision_tower or config.get("mm_vision_tower_checkpoint")
    name = named or config.get("mm_vision_tower")
    if not name:
        raise WeightsError(
            "the checkpoint does not name its vision tower",
            where=folder / "config.json",
            remedy="Give vision_tower: a folder, an encoder's name, or an open_clip checkpoint",
            kind="no_such_encoder",
        )
    place = _locate(name, folder)
    if place is None and named and not sources.vision_tower:
        raise WeightsError(
            "the vision tower's checkpoint is not here",
            where=name,
            remedy="Give its place as vision_tower and the open_clip JSON as vision_config, or the "
            "name of a known encoder (LLaVA-Rad's: biomedclip-cxr) as vision_tower",
            kind="missing_file",
        )
    if place is None or place.is_dir():
        return load_encoder(str(place or name))
    described = sources.vision_config or config.get("mm_vision_tower_config")
    json_file = _locate(described, folder) if described else None
    if json_file is None and not sources.vision_config:
        json_file = _beside(place)
    if json_file is None:
        raise WeightsError(
            f"the open_clip JSON of the vision tower is not here ({described or 'not named'})",
            where=place,
            remedy="Give its place as vision_config, or the name of a known encoder (LLaVA-Rad's: "
            "biomedclip-cxr) as vision_tower",
            kind="missing_file",
        )
    return load_open_clip(json_file, place, name=place.stem)


def _trained_tower(encoder: ImageEncoder, stored: dict[str, Tensor], folder: Path) -> ImageEncoder:
    """The same CLIP tower with the weights that were trained with the rest."""
    if not isinstance(encoder, ClipEncoder):
        raise ModelError(
            "unfreeze_mm_vision_tower is supported for CLIP towers only",
            where=folder / "config.json",
            kind="unsupported_setting",
        )
    encoder.model = module_from_state(
        type(encoder.model),
        encoder.model.config,
        {key.removeprefix("vision_tower."): tensor for key, tensor in stored.items()},
        dtype=encoder.dtype,
        source=f"{folder} (vision tower)",
    ).requires_grad_(False)
    return encoder


def _projector_layers(config: Mapping[str, Any], where: Path) -> int:
    kind = config.get("mm_projector_type", "linear")  # the default of the LLaVA code
    if kind == "linear":
        return 1
    match = re.fullmatch(r"mlp(\d+)x_gelu", str(kind))
    if match is None:
        raise ModelError(
            f"mm_projector_type {kind!r} is not supported",
            where=where,
            remedy="Supported: linear, and mlp1x_gelu to mlp4x_gelu",
            kind="unsupported_setting",
        )
    return int(match[1])


def _adapter_name(key: str) -> str:
    """``0.weight`` of a sequence and ``weight`` of a single layer, as the adapter names them."""
    return f"layers.{key}" if key[0].isdigit() else f"layers.0.{key}"


def _locate(recorded: str, folder: Path) -> Path | None:
    """A recorded place, seen from the working directory or from the checkpoint's folder.

    A path of the machine that trained counts by its last name, if that lies in the folder.
    """
    places = (Path(recorded).expanduser(), folder / recorded, folder / Path(recorded).name)
    return next((place for place in places if place.exists()), None)


def _reachable(recorded: tuple[str | None, ...], folder: Path) -> str | None:
    """The first recorded base LLM that is here or may be on the hub; else the first at all."""
    named = [name for name in recorded if name]
    usable = (n for n in named if _locate(n, folder) or re.fullmatch(r"[\w.-]+/[\w.-]+", n))
    return next(usable, named[0] if named else None)


def _beside(checkpoint: Path) -> Path | None:
    """The JSON beside an open_clip checkpoint, as LLaVA-Rad's repository names it.

    ``biomedclipcxr_518_checkpoint.pt`` goes with ``biomedclipcxr_518.json``; the configuration
    that the model records is a path in its source code.
    """
    file = checkpoint.with_name(f"{checkpoint.stem.removesuffix('_checkpoint')}.json")
    return file if file.is_file() else None


def _config_of(place: Path) -> dict[str, Any] | None:
    file = place / "config.json"
    return _read_json(file) if file.is_file() else None


def _read_json(file: Path) -> dict[str, Any]:
    return read_json(file, error=WeightsError, expect=dict, remedy="Restore the file")
