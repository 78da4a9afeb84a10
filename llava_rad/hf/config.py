"""The configuration of a whole report model in transformers."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from llava_rad.errors import ConfigError
from llava_rad.model import AdapterConfig
from llava_rad.model.configuration import MODEL_TYPE


@strict
class LlavaRadConfig(PreTrainedConfig):
    """What an encoder, an adapter and an LLM are, in one ``config.json``.

    Attributes:
        vision_config: of the encoder's tower; its ``feature_layer`` is the block that the tokens
            come from, None for those after the final norm.
        text_config: of the LLM, any causal one of transformers.
        adapter: fields of :class:`~llava_rad.model.AdapterConfig`.
        image_size: side of the square input in pixels.
        image_token_id: stands for one embedding of an image in ``input_ids``.
        tie_word_embeddings: the LLM's head is its table of embeddings.

    Raises:
        ConfigError: the file is of a model in this project's own folder layout.

    Example:
        >>> LlavaRadConfig(image_size=518).vision_config.model_type
        'dinov2'
    """

    model_type = MODEL_TYPE
    sub_configs_defaults = {  # noqa: RUF012 (as transformers declares it)
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    adapter: dict[str, Any] | None = None
    image_size: int = 518
    image_token_id: int = 32000
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if "llm_weights" in kwargs:
            raise ConfigError(
                "this is a model in llava-rad's own folder layout, not in transformers'",
                where=kwargs.get("name_or_path") or kwargs.get("_name_or_path"),
                remedy="Read it with llava_rad.load, or write it anew with: llava-rad convert "
                "FOLDER --to transformers -o NEW",
                kind="foreign_config",
            )
        super().__post_init__(**kwargs)
        self.adapter = AdapterConfig(**(self.adapter or {})).to_dict()
        text: Any = self.text_config
        self.tie_word_embeddings = bool(getattr(text, "tie_word_embeddings", False))
