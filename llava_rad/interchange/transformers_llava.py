"""Folders in transformers' Llava layout, and MAIRA-2's, which is built on it.

Both hold a vision tower, a projector and an LLM in one set of weights, under the names of any
transformers version. MAIRA-2 differs in its projector (``projector_n_layers`` linear layers) and
in its features: the DINOv2 *backbone* puts them through the final norm, where Llava takes the
output of a block as it is.

The turns of the conversation are those of the folder's chat template. MAIRA-2 words its request in
code, as the single frontal image of :data:`~llava_rad.model.published_prompts.MAIRA_2`; with a
lateral or a prior image it asks in other words, which a template of this project cannot say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, LlavaConfig

from llava_rad.encoders import ImageEncoder, Preprocessing
from llava_rad.encoders.from_config import TOWERS
from llava_rad.encoders.hf import load_config
from llava_rad.errors import ModelError, WeightsError, shown
from llava_rad.interchange.image_boundary import fit_to_published
from llava_rad.interchange.parts import Parts, Sources, conversation, reference_of, route
from llava_rad.interchange.state import module_from_state, read_weights
from llava_rad.interchange.towers import block_layer, leading_tokens, require_table_size
from llava_rad.model import LLAVA_RAD, PromptTemplate
from llava_rad.model.chat import render_chat
from llava_rad.model.prompt import IMAGE
from llava_rad.model.published_prompts import MAIRA_2
from llava_rad.model.tokenizer import read_tokenizer
from llava_rad.readers import read_json, read_text

_MAIRA_2 = "maira2"
_MARK = "THE-REQUEST"

_TOWERS = {kind: TOWERS[kind] for kind in ("clip_vision_model", "siglip_vision_model", "dinov2")}


def is_transformers_llava(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of one of the layouts read here."""
    parts = isinstance(config.get("text_config"), dict) and "vision_config" in config
    return parts and config.get("model_type") in ("llava", _MAIRA_2)


def read(folder: Path, config: Mapping[str, Any], sources: Sources) -> tuple[Parts, int]:
    """Read a folder.

    Args:
        folder: of the model.
        config: content of its ``config.json``.
        sources: prompt and precision; the layout leaves nothing else open.

    Returns:
        The parts, and the number of layers of the projector.

    Raises:
        WeightsError: a file or tensor is missing, damaged or too many.
        ModelError: the model is of a kind that this project's model cannot express.
    """
    maira = config["model_type"] == _MAIRA_2
    where = folder / "config.json"
    llava: Any = load_config(LlavaConfig, {**config, "model_type": "llava"}, where)
    _require_plain(llava, where)
    llm_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(llava.text_config), None)
    if llm_class is None:
        raise ModelError(
            f"text_config is of a {shown(llava.text_config.model_type)}, which is no LLM",
            where=where,
            remedy="Use the files as they were published",
            kind="unsupported_setting",
        )
    rules = (
        ("language_model.", "llm", ""),
        ("model.language_model.", "llm", f"{llm_class.base_model_prefix}."),
        ("lm_head.", "llm", "lm_head."),
        ("model.multi_modal_projector.", "projector", ""),
        ("multi_modal_projector.", "projector", ""),
        ("model.vision_tower.", "tower", ""),
        ("vision_tower.", "tower", ""),
    )
    state = route(read_weights(folder), rules, source=folder)
    stored = next(iter(state["llm"].values())).dtype if state["llm"] else torch.float32
    llm = module_from_state(
        llm_class,
        llava.text_config,
        state["llm"],
        dtype=sources.dtype or stored,
        source=f"{folder} (LLM)",
    )
    tokenizer = read_tokenizer(folder)
    encoder = _tower(folder, llava, state["tower"], maira=maira)
    template = sources.template
    notes: list[str] = []
    if template is None:
        template, notes = _template(
            folder, tokenizer, llava.image_token_id, llava.text_config.model_type, maira=maira
        )
    layers = int(config.get("projector_n_layers", 4)) if maira else 2
    parts = Parts(
        layout="maira-2" if maira else "transformers-llava",
        encoder=encoder,
        projector=state["projector"] if maira else _two_layers(state["projector"]),
        llm=llm,
        reference=reference_of(llm, str(llava.text_config.name_or_path or folder.name)),
        llm_weights="full",
        tokenizer=tokenizer,
        template=template,
        notes=notes,
    )
    return parts, layers


def _require_plain(llava: Any, where: Path) -> None:
    for name, value, allowed in (
        ("projector_hidden_act", llava.projector_hidden_act, "gelu"),
        ("multimodal_projector_bias", llava.multimodal_projector_bias, True),
        ("quantization_config", getattr(llava, "quantization_config", None), None),
    ):
        if value != allowed:
            raise ModelError(
                f"{name} is {value!r}, which is not supported",
                where=where,
                remedy=f"Supported is {allowed!r}",
                kind="unsupported_setting",
            )
    if llava.vision_config.model_type not in _TOWERS:
        raise ModelError(
            f"a vision tower of the kind {llava.vision_config.model_type!r} is not supported",
            where=where,
            remedy=f"Supported: {', '.join(_TOWERS)}",
            kind="unsupported_tower",
        )


def _two_layers(projector: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"linear_1": "layers.0", "linear_2": "layers.2"}
    return {
        names.get(key.split(".")[0], key.split(".")[0]) + key[key.index(".") :]: tensor
        for key, tensor in projector.items()
    }


def _tower(folder: Path, llava: Any, state: dict[str, Tensor], *, maira: bool) -> ImageEncoder:
    where = folder / "config.json"
    config: Any = llava.vision_config
    depth = config.num_hidden_layers
    layer: int | None
    if maira:
        layer = _backbone_layer(config, llava.vision_feature_layer, where)
    else:
        layer = block_layer(llava.vision_feature_layer, depth, where=where)
    model_class, encoder_class = _TOWERS[config.model_type]
    make: Any = encoder_class
    encoder = make(
        module_from_state(
            model_class, config, state, dtype=torch.float32, source=f"{folder} (vision tower)"
        ),
        Preprocessing.read(folder),
        name=str(folder),
        layer=layer,
    )
    if (llava.vision_feature_select_strategy == "default") != (leading_tokens(encoder) == 1):
        raise ModelError(
            f"vision_feature_select_strategy {llava.vision_feature_select_strategy!r} does not "
            f"give all patch tokens, and only those, of a {config.model_type}",
            where=where,
            kind="unsupported_tower",
        )
    require_table_size(encoder, where=folder)
    return encoder


def _backbone_layer(config: Any, index: object, where: Path) -> int | None:
    """The layer whose feature map MAIRA-2 takes from its DINOv2 backbone."""
    stages = list(config.out_features)
    single = isinstance(index, int) and -len(stages) <= index < len(stages)
    if config.model_type == "dinov2" and single and not config.reshape_hidden_states:
        depth = config.num_hidden_layers
        position = config.stage_names.index(stages[index])  # type: ignore[call-overload]
        if not config.apply_layernorm:
            return block_layer(position, depth, where=where)
        if position == depth:
            return None
    raise ModelError(
        f"feature map {index} of the stages {', '.join(stages)} is not supported",
        where=where,
        remedy="Supported is a DINOv2 backbone with its last stage after the norm, or one stage "
        "without it, as tokens",
        kind="unsupported_tower",
    )


@dataclass(frozen=True)
class _Turns:
    """Text around the image and the request in the folder's chat format."""

    before: str
    between: str
    after: str


def _template(
    folder: Path, tokenizer: Any, image_token_id: int, llm_type: str, *, maira: bool
) -> tuple[PromptTemplate, list[str]]:
    turns = _turns(folder, tokenizer)
    notes = []
    if maira:
        notes.append(
            "prompt: MAIRA-2's for a single frontal image, with or without an indication; "
            "maira_2_grounded asks for boxes"
        )
        changes = dict(MAIRA_2)
        if turns is not None:
            changes |= {"before": turns.before, "after": turns.after}
        template = PromptTemplate(**changes)
    elif turns is None:
        name, chosen = conversation(llm_type)
        notes.append(f"prompt: {name}; the folder has no chat template")
        template = PromptTemplate(**chosen)
    else:
        notes.append("prompt: the folder's chat format with LLaVA-Rad's request")
        template = replace(
            PromptTemplate(**LLAVA_RAD),
            before=turns.before,
            image_end=turns.between,
            after=turns.after,
        )
    if not 0 <= image_token_id < len(tokenizer):
        raise ModelError(
            f"the image's token {shown(image_token_id)} is none of the tokenizer's "
            f"{len(tokenizer)}",
            where=folder / "config.json",
            remedy="Use the files as they were published, all of one and the same model",
            kind="unsupported_setting",
        )
    image_token = tokenizer.convert_ids_to_tokens(image_token_id)
    fitted = fit_to_published(template, tokenizer, image_token)
    if fitted is None:
        notes.append("tokens: the text after an image is tokenised another way than there")
    return fitted or template, notes


def _turns(folder: Path, tokenizer: Any) -> _Turns | None:
    chat_format = _chat_template(folder) or tokenizer.chat_template
    if not chat_format:
        return None
    request = [{"type": "image"}, {"type": "text", "text": _MARK}]
    messages = [{"role": "user", "content": request}]
    (found,) = render_chat(
        tokenizer, chat_format, [{"messages": messages, "add_generation_prompt": True}]
    )
    if "error" in found:
        raise ModelError(
            f"the chat template cannot be used ({found['error'].rstrip('.')})",
            where=folder,
            remedy="Give the template with which the model shall be asked",
            kind="unsupported_setting",
        )
    text = found["text"]
    if text.count(IMAGE) != 1 or text.count(_MARK) != 1 or text.find(IMAGE) > text.find(_MARK):
        raise ModelError(
            "the chat template does not put one image before the request",
            where=folder,
            remedy="Give the template with which the model shall be asked",
            kind="unsupported_setting",
        )
    before, rest = text.split(IMAGE)
    between, after = rest.split(_MARK)
    bos = tokenizer.bos_token
    if bos and before.startswith(bos):
        before = before.removeprefix(bos)  # the tokenizer puts it there itself
    return _Turns(before, between, after)


def _chat_template(folder: Path) -> str | None:
    plain, older = folder / "chat_template.jinja", folder / "chat_template.json"
    if plain.is_file():
        return read_text(plain, error=WeightsError, remedy="Restore the file")
    if older.is_file():
        values = read_json(older, error=WeightsError, expect=dict, remedy="Restore the file")
        if "chat_template" not in values:
            raise WeightsError(
                "there is no chat_template in it", where=older, remedy="Restore the file"
            )
        return str(values["chat_template"])
    return None
