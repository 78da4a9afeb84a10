"""What a saved report model is made of: the contents of its ``config.json``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from llava_rad.config import Count, Range, from_dict
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.model.adapter import AdapterConfig
from llava_rad.model.llm import LLMReference, Quantization
from llava_rad.readers import read_json

FILE = "config.json"
MODEL_TYPE = "llava_rad"
FORMAT = 1


@dataclass(frozen=True)
class EncoderReference:
    """The encoder a report model was trained with.

    Attributes:
        id: registry name, hub id, or ``encoder`` for the copy inside the model's folder.
        revision: commit on the hub, if it comes from there.
        fingerprint: hash of its weights and preprocessing.
        dim: width of its patch tokens.
        image_size: side of its square input in pixels.
        layer: block its tokens come from; None is the output after the final norm.
    """

    id: str
    revision: str | None
    fingerprint: str
    dim: Count
    image_size: Count
    layer: Annotated[int, Range(-1000, 1000)] | None = None


@dataclass(frozen=True)
class ReportModelConfig:
    """Everything that says what a report model is, without its weights.

    Attributes:
        name: shown in every report it writes.
        encoder: which encoder gives the patch tokens.
        adapter: shape of the adapter.
        llm: the base LLM.
        llm_weights: ``base`` (as it is), ``lora`` (with the LoRA in the folder) or ``full`` (all
            weights are in the folder).
        llm_quantize: how the base LLM was kept while the LoRA was trained, ``4bit`` or ``8bit``;
            None for plain weights. On another base the LoRA fits less well.
        fingerprints: hash of the weights of the ``adapter`` and of the ``lora``.
        training: facts of the training run for the card, such as manifest hashes.
    """

    name: str
    encoder: EncoderReference
    adapter: AdapterConfig
    llm: LLMReference
    llm_weights: str = "base"
    llm_quantize: Quantization | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``config.json``."""
        values = {"model_type": MODEL_TYPE, "format": FORMAT, **asdict(self)}
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ReportModelConfig":
        """Read ``config.json``.

        Raises:
            WeightsError: it is missing, damaged, or of another kind of model.
        """
        file = folder / FILE
        values = read_json(
            file,
            error=WeightsError,
            expect=dict,
            failure="not the folder of a report model",
            remedy="Give a folder that ReportModel.save_pretrained wrote",
            kind="no_config",
        )
        if values.get("model_type") == MODEL_TYPE and "text_config" in values:
            raise WeightsError(
                "this model is in the layout for transformers, not in llava-rad's own",
                where=folder,
                remedy="Write it anew with: llava-rad convert FOLDER -o NEW, and use NEW",
                kind="foreign_config",
            )
        if values.pop("model_type", None) != MODEL_TYPE or values.pop("format", None) != FORMAT:
            raise WeightsError(
                "this config.json is not of a llava-rad report model",
                where=file,
                remedy="Convert other checkpoints first with: llava-rad convert",
                kind="foreign_config",
            )
        try:
            found = from_dict(cls, values)
            if found.llm_weights not in ("base", "lora", "full"):
                raise ConfigError(f"llm_weights is {found.llm_weights!r}")
            return found
        except ConfigError as error:
            raise WeightsError(
                f"a key is missing, unknown or wrong ({error.what})",
                where=file,
                remedy="Use the llava-rad version that wrote it, or a newer one",
                kind="damaged_config",
            ) from error
