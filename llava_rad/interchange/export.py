"""A report model written in transformers' ``LlavaForConditionalGeneration`` layout.

The layout holds less than this project's format: an LLM whose head is a plain linear map without
bias, an adapter of two linear layers with GELU and no pooling, and a tower whose tokens are the
output of one of its blocks, before any final norm. A model outside of that is refused. One inside
is compared with what is about to be written, in numbers, before it is.

LLaVA-Rad's tower and other timm vision transformers become transformers' DINOv2, whose blocks are
the same once a LayerScale of ones is put where the trunk has none.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava_rad.encoders import ImageEncoder, Preprocessing
from llava_rad.encoders.clip import ClipEncoder
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.encoders.dinov2_repo import load_repo_weights, repo_config
from llava_rad.encoders.siglip import SiglipEncoder
from llava_rad.encoders.timm_vit import TimmEncoder
from llava_rad.errors import ModelError, WeightsError
from llava_rad.hf import chat_template
from llava_rad.interchange.image_boundary import text_after_image
from llava_rad.interchange.towers import (
    leading_tokens,
    require_one_leading_token,
    require_table_size,
)
from llava_rad.interchange.writing import (
    greedy,
    make_room,
    never_written,
    new_folder,
    with_image_token,
)
from llava_rad.model import ReportModel, ReportProcessor
from llava_rad.model.card import NOT_FOR_CARE
from llava_rad.model.llm import untie_if_different
from llava_rad.model.prompt import IMAGE
from llava_rad.quiet import quiet


def write_llava(model: ReportModel, folder: Path, *, dtype: torch.dtype | None = None) -> list[str]:
    """Write merged weights, configuration and processor; the model's LLM is used up by it.

    Args:
        model: to write; a LoRA is merged.
        folder: to write; it does not exist or is empty.
        dtype: of all weights; None for that of the LLM.

    Returns:
        What the user should know of the folder, each ``kind: text``.

    Raises:
        ModelError: the layout cannot express the model.
        WeightsError: the disk refuses.
    """
    _require_expressible(model)
    model = model.merge().eval()
    llm: Any = model.llm
    untie_if_different(llm)
    vocabulary = llm.get_input_embeddings().weight.shape[0]
    expected = _text_logits(llm, model)

    tokenizer, image_id = with_image_token(model.processor.tokenizer)
    make_room(llm, image_id, like=never_written(model.processor))
    tower = _tower(model.encoder)
    llava = _compose(model, llm, tower, image_id)
    _require_same(llava, model, expected, vocabulary)

    processor, notes = _processor(model, tokenizer, tower.config)
    ends = {model.processor.end_id, tokenizer.eos_token_id} - {None}
    llava.generation_config = greedy(tokenizer, ends)
    llava.to(dtype or next(llm.parameters()).dtype)
    with new_folder(folder) as temporary:
        with quiet():
            llava.save_pretrained(temporary)
            processor.save_pretrained(temporary)
        model.encoder.preprocessing.write(temporary)
        (temporary / "README.md").write_text(_card(model, notes), encoding="utf-8")
    return notes


def _require_expressible(model: ReportModel) -> None:
    adapter = model.config.adapter
    head = model.llm.get_output_embeddings()
    if adapter.layers != 2 or adapter.pool != 1:
        raise _refuse(
            f"an adapter of {adapter.layers} layers with pooling {adapter.pool}",
            "it has two linear layers and no pooling",
            "unsupported_adapter",
        )
    if adapter.hidden not in (None, model.config.llm.hidden_size):
        raise _refuse(
            f"an adapter of the inner width {adapter.hidden}",
            f"it is the LLM's, {model.config.llm.hidden_size}",
            "unsupported_adapter",
        )
    if getattr(head, "bias", None) is not None:
        raise _refuse(
            f"the head of {model.config.llm.architecture}, which has a bias",
            "its head has none, so every logit would be wrong",
            "unsupported_llm",
        )
    if model.encoder.preprocessing.equalize:
        raise _refuse(
            "images whose histogram is equalised",
            "its processors do not do so",
            "unsupported_tower",
        )
    if model.encoder.layer is None:
        raise _refuse(
            "tokens after the encoder's final norm",
            "it takes the output of a block as it is",
            "unsupported_tower",
        )


def _refuse(what: str, but: str, kind: str) -> ModelError:
    return ModelError(
        f"transformers' Llava cannot express {what}: {but}",
        remedy="Serve this model from its own folder, with llava-rad",
        kind=kind,
    )


def _tower(encoder: ImageEncoder) -> Any:
    """The encoder as a tower of transformers."""
    require_table_size(encoder, where=encoder.name)
    if isinstance(encoder, ClipEncoder | SiglipEncoder):
        return encoder.model
    require_one_leading_token(encoder, where=encoder.name)
    if isinstance(encoder, Dinov2Encoder):
        return encoder.model
    if isinstance(encoder, TimmEncoder):
        try:
            return _timm_as_dinov2(encoder)
        except WeightsError as error:
            raise _refuse(
                f"the tower {encoder.architecture} ({error.what})",
                "it is neither CLIP nor SigLIP nor of DINOv2's blocks",
                "unsupported_tower",
            ) from error
    raise _refuse(
        f"a tower of the kind {type(encoder).__name__}", "it knows none", "unsupported_tower"
    )


def _timm_as_dinov2(encoder: TimmEncoder) -> Dinov2Model:
    trunk: Any = encoder.trunk
    state = {key.replace("fc_norm.", "norm."): t for key, t in trunk.state_dict().items()}
    ones = torch.ones(encoder.dim, dtype=encoder.dtype)
    for number in range(encoder.depth):
        for scale in ("ls1", "ls2"):
            state.setdefault(f"blocks.{number}.{scale}.gamma", ones.clone())
    config: Any = repo_config(state, num_heads=trunk.blocks[0].attn.num_heads, where=encoder.name)
    config.layer_norm_eps = trunk.blocks[0].norm1.eps
    tower: Any = Dinov2Model(config)
    load_repo_weights(tower, state, source=encoder.name)
    return tower.to(encoder.dtype).eval()


def _compose(model: ReportModel, llm: Any, tower: Any, image_id: int) -> Any:
    """Transformers' model around the modules of ours."""
    tower_config, text_config = copy.deepcopy(tower.config), copy.deepcopy(llm.config)
    text_config.name_or_path = tower_config.name_or_path = ""  # often a path of this machine
    layer: Any = model.encoder.layer
    config = LlavaConfig(
        vision_config=tower_config,
        text_config=text_config,
        image_token_index=image_id,
        image_seq_length=model.processor.tokens_per_image,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if leading_tokens(model.encoder) else "full",
        vision_feature_layer=layer,
        tie_word_embeddings=bool(text_config.tie_word_embeddings),
    )
    with torch.device("meta"):
        llava: Any = LlavaForConditionalGeneration(config)
    inner = llm.base_model
    if type(llava.model.language_model) is not type(inner):
        raise _refuse(
            f"a {type(inner).__name__} as LLM",
            f"it would load a {type(llava.model.language_model).__name__}",
            "unsupported_llm",
        )
    projector = llava.model.multi_modal_projector
    projector.linear_1, projector.linear_2 = model.adapter.layers[0], model.adapter.layers[2]
    llava.model.language_model, llava.lm_head = inner, llm.get_output_embeddings()
    llava.model.vision_tower = tower
    return llava.eval()


@torch.inference_mode()
def _require_same(llava: Any, model: ReportModel, expected: torch.Tensor, vocabulary: int) -> None:
    """Compare what is to be written with the model: logits of a text, tokens of an image."""
    found = _text_logits(llava, model)[..., :vocabulary]
    pixels = torch.linspace(-2, 2, 3 * model.encoder.image_size**2, dtype=torch.float32)
    pixels = pixels.view(1, 3, model.encoder.image_size, -1).to(
        next(model.encoder.parameters()).device, model.encoder.dtype
    )
    ours = model.image_tokens(model.encode_images(pixels))[0]
    theirs = llava.get_image_features(
        pixels,
        vision_feature_layer=llava.config.vision_feature_layer,
        vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
    ).pooler_output[0]
    # Modules of two libraries round differently; another layer or head differs by far more.
    allowed = 1e-3 if ours.dtype == torch.float32 else 0.03
    for what, kind, a, b in (
        ("logits", "unsupported_llm", expected, found),
        ("image tokens", "unsupported_tower", ours, theirs),
    ):
        if a.shape != b.shape or (a.float() - b.float()).norm() > allowed * a.float().norm():
            raise _refuse(
                f"{type(model.llm).__name__} with {type(model.encoder).__name__}",
                f"its {what} would differ",
                kind,
            )


@torch.inference_mode()
def _text_logits(llm: Any, model: ReportModel) -> torch.Tensor:
    ids = model.processor.tokenizer(model.processor.template.instruction)["input_ids"][:16]
    return llm(input_ids=torch.tensor([ids], device=model.device)).logits


def _processor(
    model: ReportModel, tokenizer: Any, tower_config: Any
) -> tuple[LlavaProcessor, list[str]]:
    own: ReportProcessor = model.processor
    notes = []
    lead = text_after_image(own.template, tokenizer, IMAGE)
    if lead is None:
        notes.append("tokens: transformers tokenises the text after an image another way")
    if own.preprocessing.crop_rounding != "floor":
        notes.append(
            "crop: where an odd number of pixels hangs over, transformers cuts one pixel beside "
            "where this model's training did"
        )
    cls = getattr(transformers, own.preprocessing.to_dict()["image_processor_type"])
    has_class_token = leading_tokens(model.encoder) == 1
    tokenizer.chat_template = None
    processor = LlavaProcessor(
        image_processor=cls(**_transformers_keys(own.preprocessing)),
        tokenizer=tokenizer,
        patch_size=int(tower_config.patch_size),
        vision_feature_select_strategy="default" if has_class_token else "full",
        num_additional_image_tokens=int(has_class_token),
        image_token=IMAGE,
        chat_template=chat_template(own.template, tokenizer, after_image=lead or ""),
    )
    return processor, notes


def _transformers_keys(preprocessing: Preprocessing) -> dict[str, Any]:
    ours = ("geometry", "rendering", "crop_rounding", "resize_in", "image_processor_type")
    return {key: value for key, value in preprocessing.to_dict().items() if key not in ours}


def _card(model: ReportModel, notes: list[str]) -> str:
    template = model.processor.template
    lines = [
        f"# {model.config.name}",
        "",
        f"Findings text from chest X-rays, for transformers' Llava. {NOT_FOR_CARE}",
        "",
        "```python",
        "from transformers import AutoProcessor, LlavaForConditionalGeneration",
        "",
        'processor = AutoProcessor.from_pretrained(FOLDER, backend="pil")',
        "model = LlavaForConditionalGeneration.from_pretrained(FOLDER)",
        "content = [",
        '    {"type": "image", "image": IMAGE},',
        f'    {{"type": "text", "text": {json.dumps(template.instruction, ensure_ascii=False)}}},',
        "]",
        "inputs = processor.apply_chat_template(",
        '    [{"role": "user", "content": content}],',
        "    add_generation_prompt=True,",
        "    tokenize=True,",
        "    return_dict=True,",
        '    return_tensors="pt",',
        ")",
        "ids = model.generate(**inputs)",
        "```",
        "",
        "The image is 8-bit gray with bright bones.",
        "",
    ]
    if template.instruction_with_indication:
        lines += ["With an indication, the text is:", "", "```"]
        lines += [template.instruction_with_indication, "```", ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]).rstrip() + "\n"
