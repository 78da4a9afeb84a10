"""A whole report model in one folder of transformers, for the classes of :mod:`llava_rad.hf`.

All weights are in it, a LoRA merged. Tokens after the encoder's final norm, biases and scales of
the LLM's head, any adapter, and prompts of several images are kept as they are. What is written is
read once more and compared with the model before the folder appears.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from llava_rad.encoders import ImageEncoder, Preprocessing
from llava_rad.encoders.from_config import config_of, encoder_from_config
from llava_rad.encoders.hf import load_config
from llava_rad.encoders.weights import load_into
from llava_rad.errors import ModelError, WeightsError
from llava_rad.hf import (
    LlavaRadConfig,
    LlavaRadForConditionalGeneration,
    LlavaRadImageProcessor,
    LlavaRadProcessor,
    chat_template,
)
from llava_rad.interchange.image_boundary import example_request
from llava_rad.interchange.parts import Parts, Sources, reference_of
from llava_rad.interchange.state import module_from_state, read_weights
from llava_rad.interchange.writing import (
    greedy,
    make_room,
    never_written,
    new_folder,
    with_image_token,
)
from llava_rad.model import (
    IMAGE_TOKEN,
    PromptTemplate,
    ReportModel,
    ReportProcessor,
    ReportRequest,
    RequestImage,
)
from llava_rad.model.card import NOT_FOR_CARE
from llava_rad.model.configuration import MODEL_TYPE
from llava_rad.model.llm import untie_if_different
from llava_rad.model.prompt import IMAGE, ROLES
from llava_rad.model.tokenizer import read_tokenizer
from llava_rad.quiet import quiet
from llava_rad.readers import read_json

_PARTS = ("vision_tower", "multi_modal_projector", "language_model")


def write_whole(model: ReportModel, folder: Path, *, dtype: torch.dtype | None = None) -> list[str]:
    """Write merged weights, configuration, processor and card; the model is used up by it.

    Args:
        model: to write; a LoRA is merged.
        folder: to write; it does not exist or is empty.
        dtype: of all weights; None for that of the LLM.

    Returns:
        What the user should know of the folder, each ``kind: text``.

    Raises:
        ModelError: transformers has no configuration for the encoder, or would make another one of
            it.
        WeightsError: the disk refuses.
    """
    model = model.merge().eval()
    llm: Any = model.llm
    untie_if_different(llm)
    vision_config = config_of(model.encoder)
    _require_same_tower(model.encoder, vision_config)
    tokenizer, image_id = with_image_token(model.processor.tokenizer)
    processor, notes = _processor(model.processor, tokenizer)
    make_room(llm, image_id, like=never_written(model.processor))
    whole = _compose(model, llm, vision_config, image_id)
    whole.generation_config = greedy(tokenizer, model.end_ids)
    whole.to(dtype or next(llm.parameters()).dtype)
    with new_folder(folder) as temporary:
        with quiet():
            whole.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            read_back = AutoProcessor.from_pretrained(temporary, local_files_only=True)
        if not _same_ids(read_back, model.processor) and not notes:
            raise _refuse("its tokenizer reads text another way there", "unsupported_llm")
        (temporary / "README.md").write_text(_card(model, notes), encoding="utf-8")
    return notes


def _compose(model: ReportModel, llm: Any, vision_config: Any, image_id: int) -> Any:
    """Transformers' model around the modules of ours."""
    text_config = copy.deepcopy(llm.config)
    text_config.name_or_path = ""  # often a path of this machine
    config = LlavaRadConfig(
        vision_config=vision_config,
        text_config=text_config,
        adapter=model.config.adapter.to_dict(),
        image_size=model.encoder.image_size,
        image_token_id=image_id,
    )
    with torch.device("meta"), quiet():
        whole: Any = LlavaRadForConditionalGeneration(config)
    own = dict(zip(_PARTS, (model.encoder, model.adapter, llm), strict=True))
    for name, module in own.items():
        described = {key: t.shape for key, t in getattr(whole, name).state_dict().items()}
        if described != {key: tensor.shape for key, tensor in module.state_dict().items()}:
            raise _refuse(
                f"its {name.replace('_', ' ')} ({type(module).__name__}) is not what its "
                "configuration says",
                "unsupported_tower" if name == "vision_tower" else "unsupported_llm",
            )
        setattr(whole, name, module)
    return whole.eval()


@torch.inference_mode()
def _require_same_tower(encoder: ImageEncoder, config: Any) -> None:
    """Make the encoder from its configuration and see that its tokens are the same."""
    made = encoder_from_config(copy.deepcopy(config), encoder.preprocessing)
    load_into(made, encoder.state_dict(), source=encoder.name)
    made.to(encoder.dtype)
    pixels = torch.linspace(-2, 2, 3 * encoder.image_size**2).view(1, 3, encoder.image_size, -1)
    device = next(encoder.parameters()).device
    wanted = encoder(pixels.to(device)).patches
    found = made.to(device)(pixels.to(device)).patches
    # The same arithmetic, in an order that a library may choose anew.
    allowed = 1e-4 if encoder.dtype == torch.float32 else 0.02
    if found.shape != wanted.shape or (found - wanted).norm() > allowed * wanted.norm():
        raise _refuse(
            f"{type(encoder).__name__} differs from what its configuration says",
            "unsupported_tower",
        )


def _processor(own: ReportProcessor, tokenizer: Any) -> tuple[LlavaRadProcessor, list[str]]:
    """The processor whose text has the token ids of ours, and a note where there is none."""
    tokenizer.padding_side = "left"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.chat_template = None
    made = []
    # A space that tokenizers put in front of a text that stands alone: after an image, or, where no
    # text follows the images, before the report.
    for after_image, before_report in (("", ""), (" ", ""), ("", " ")):
        wording = replace(own.template, separator=before_report + own.template.separator)
        processor = LlavaRadProcessor(
            image_processor=LlavaRadImageProcessor(**own.preprocessing.to_dict()),
            tokenizer=tokenizer,
            template=own.template.to_dict(),
            image_seq_length=own.tokens_per_image,
            chat_template=chat_template(wording, tokenizer, after_image=after_image),
        )
        if _same_ids(processor, own):
            return processor, []
        made.append(processor)
    return made[0], ["tokens: transformers tokenises the text after an image another way"]


def _same_ids(processor: LlavaRadProcessor, own: ReportProcessor) -> bool:
    """Whether prompts, and reports in training, have the token ids that ours have."""
    image_id = processor.image_token_id
    roles = tuple(role for role in ROLES if role in own.template.image_lines)
    for shown in {roles[:1], roles}:
        images = tuple(RequestImage(role) for role in shown)
        for request in (ReportRequest(images), ReportRequest(images, indication="Cough for 3 d.")):
            for report in (None, "The heart is 12.5 cm wide (normal); no effusion."):
                wanted = own.encode(request, report).input_ids
                text = processor.apply_chat_template(
                    processor.messages(request, report), add_generation_prompt=report is None
                )
                text = text.replace(IMAGE, IMAGE * own.tokens_per_image)
                found = processor.tokenizer(text)["input_ids"]
                if found != [image_id if i == IMAGE_TOKEN else i for i in wanted]:
                    return False
    return True


def _refuse(what: str, kind: str) -> ModelError:
    return ModelError(
        f"the model cannot be written for transformers: {what}",
        remedy="Serve this model from its own folder, with llava-rad",
        kind=kind,
    )


def is_whole_folder(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of a folder that :func:`write_whole` wrote."""
    return config.get("model_type") == MODEL_TYPE and "text_config" in config


def read(folder: Path, config: Mapping[str, Any], sources: Sources) -> tuple[Parts, int]:
    """Read a folder.

    Args:
        folder: of the model.
        config: content of its ``config.json``.
        sources: prompt and precision; the layout leaves nothing else open.

    Returns:
        The parts, and the number of layers of the adapter.

    Raises:
        WeightsError: a file or tensor is missing, damaged or too many.
        ModelError: the model is of a kind that this project's model cannot express.
    """
    where = folder / "config.json"
    settings: Any = load_config(LlavaRadConfig, dict(config), where)
    state = read_weights(folder)
    stored = next((t.dtype for k, t in state.items() if k.startswith(_PARTS[2])), torch.float32)
    whole = module_from_state(
        LlavaRadForConditionalGeneration,
        settings,
        state,
        dtype=sources.dtype or stored,
        source=folder,
    )
    values = read_json(folder / "processor_config.json", error=WeightsError, expect=dict)
    try:
        template = sources.template or PromptTemplate.from_dict(values["template"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"the prompt's template is missing or damaged ({error!r})",
            where=folder / "processor_config.json",
            remedy="Copy the whole folder again",
            kind="damaged_processor",
        ) from error
    encoder = whole.vision_tower.float()
    encoder.preprocessing = Preprocessing.read(folder)
    encoder.name = str(folder)
    llm = whole.language_model
    parts = Parts(
        layout="transformers",
        encoder=encoder,
        projector=whole.multi_modal_projector.float().state_dict(),
        llm=llm,
        reference=reference_of(llm, folder.name),
        llm_weights="full",
        tokenizer=read_tokenizer(folder),
        template=template,
        pool=settings.adapter["pool"],
    )
    return parts, settings.adapter["layers"]


def _card(model: ReportModel, notes: list[str]) -> str:
    request = replace(example_request(model.processor.template), indication="INDICATION")
    text = model.processor.template.text(request)
    lines = [
        f"# {model.config.name}",
        "",
        f"Findings text from chest X-rays, for transformers. {NOT_FOR_CARE}",
        "",
        "Its classes come with the package `llava-rad` (`pip install llava-rad`); importing it "
        "makes them known:",
        "",
        "```python",
        "import llava_rad.hf",
        "from transformers import pipeline",
        "",
        'pipe = pipeline("image-text-to-text", model=FOLDER)',
        'content = [{"type": "image", "path": "chest.dcm"}, {"type": "text", "text": TEXT}]',
        'pipe(text=[{"role": "user", "content": content}], return_full_text=False)',
        "```",
        "",
        "Without a text the model is asked:",
        "",
        *("```", model.processor.template.instruction, "```"),
        "",
        "With an indication the text is:",
        "",
        *("```", text, "```"),
        "",
        "Images are in the roles "
        + ", ".join(f"`{role}`" for role in model.processor.template.image_lines)
        + ', in this order, or as each says: `{"type": "image", "role": ROLE, ...}`. '
        "`AutoProcessor.from_pretrained(FOLDER).messages(request)` words a whole request.",
        "",
        "```",
        "llava-rad convert THIS_FOLDER -o NEW_FOLDER",
        "```",
        "",
        "writes it back in llava-rad's own layout, to train and evaluate it there.",
        "",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]).rstrip() + "\n"
