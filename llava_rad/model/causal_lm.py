"""Which class of transformers an LLM is, and the text model within a multimodal one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from llava_rad.errors import ModelError, WeightsError
from llava_rad.quiet import quiet

# Where multimodal checkpoints keep the weights of their text model, today and formerly.
_TEXT_WEIGHTS = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}


@dataclass(frozen=True)
class CausalLM:
    """What is loaded of an LLM's folder.

    Attributes:
        model_class: of transformers.
        config: of that class.
        renames: what the names of its weights in the folder start with, and what takes its place.
        wrapper: name of the multimodal architecture that the text model is taken out of; None for
            an LLM that is nothing but one.
    """

    model_class: Any
    config: Any
    renames: dict[str, str]
    wrapper: str | None = None

    @property
    def name(self) -> str:
        """Of the class."""
        return str(self.model_class.__name__)


def read_config(folder: Path, *, where: object) -> Any:
    """The configuration of a folder, without running code that it may name.

    Raises:
        WeightsError: it is missing or damaged.
        ModelError: it is of no architecture of transformers, or asks for foreign code.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(
            "cannot load the LLM (there is no config.json)",
            where=where,
            remedy="Give a folder in transformers' layout; of a LoRA alone, give its base LLM",
            kind="llm_not_found",
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # damaged JSON, unknown types and wrong values raise many kinds
        reason = first_line(error)
        if "trust_remote_code" in reason or "custom code" in reason:
            raise ModelError(
                "its architecture is not one of transformers': its config.json names Python code "
                "(auto_map), which is never run",
                where=where,
                remedy="Use an LLM whose class is part of transformers",
                kind="foreign_code",
            ) from error
        raise WeightsError(
            f"cannot load the LLM (its config.json: {reason})",
            where=where,
            remedy="Check the folder's files, and that this transformers knows the architecture",
            kind="damaged_config",
        ) from error
    for key in ("_attn_implementation", "_experts_implementation"):
        named = getattr(config, key, None)
        if isinstance(named, str) and "/" in named:
            raise ModelError(
                f"its config.json names code of the hub ({named}), which is never run",
                where=where,
                remedy=f"Take {key.removeprefix('_')} out of the file",
                kind="foreign_code",
            )
    return config


def causal_lm(config: Any, *, where: object) -> CausalLM:
    """The class that an LLM's configuration means.

    Of a multimodal architecture, such as Gemma 3 with its vision tower, it is the text model.

    Raises:
        ModelError: transformers has no causal LM for it.
    """
    text = config.get_text_config(decoder=True)
    kind = type(text if text is not None else config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        named = ", ".join(getattr(config, "architectures", None) or [type(config).__name__])
        raise ModelError(
            f"{named} is not a causal LM of transformers",
            where=where,
            remedy="Use one that is, such as Llama, Qwen, Gemma, Phi or Mistral",
            kind="unsupported_llm",
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    if isinstance(model_class, tuple | list):
        model_class = model_class[0]
    if text is config:
        return CausalLM(model_class, config, {})
    # What holds for the whole is said once, outside.
    for key in ("quantization_config", "dtype"):
        if getattr(config, key, None) is not None and getattr(text, key, None) is None:
            setattr(text, key, getattr(config, key))
    # Of the two, the outer one ties the head to the table.
    text.tie_word_embeddings = getattr(config, "tie_word_embeddings", text.tie_word_embeddings)
    named = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    return CausalLM(model_class, text, dict(_TEXT_WEIGHTS), wrapper=named)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
