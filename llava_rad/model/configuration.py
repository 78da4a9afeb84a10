"""What a saved report model is made of: the contents of its ``config.json``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from llava_rad.errors import WeightsError
from llava_rad.model.adapter import AdapterConfig
from llava_rad.model.llm import LLMReference, Quantization

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
    dim: int
    image_size: int
    layer: int | None = None


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
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"not the folder of a report model ({error})",
                where=file,
                remedy="Give a folder that ReportModel.save_pretrained wrote",
                kind="no_config",
            ) from error
        if values.pop("model_type", None) != MODEL_TYPE or values.pop("format", None) != FORMAT:
            raise WeightsError(
                "this config.json is not of a llava-rad report model",
                where=file,
                remedy="Convert other checkpoints first with: llava-rad convert",
                kind="foreign_config",
            )
        try:
            found = cls(
                **{
                    **values,
                    "encoder": EncoderReference(**values["encoder"]),
                    "adapter": AdapterConfig(**values["adapter"]),
                    "llm": LLMReference(**values["llm"]),
                }
            )
            _check_types(found)
            return found
        except (KeyError, TypeError) as error:
            raise WeightsError(
                f"a key is missing or unknown, or a value is of a wrong type ({error})",
                where=file,
                remedy="Use the llava-rad version that wrote it, or a newer one",
                kind="damaged_config",
            ) from error


def _check_types(config: ReportModelConfig) -> None:
    """Raise TypeError for a value that nothing here writes."""
    for part in (config, config.encoder, config.adapter, config.llm):
        for item in fields(part):
            value = getattr(part, item.name)
            if not _is(value, item.type):
                raise TypeError(f"{item.name} is {value!r}")
    if config.llm_weights not in ("base", "lora", "full"):
        raise TypeError(f"llm_weights is {config.llm_weights!r}")
    if config.llm_quantize not in (None, "4bit", "8bit"):
        raise TypeError(f"llm_quantize is {config.llm_quantize!r}")


def _is(value: object, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's type, as far as it is a plain one."""
    if kind in (int, str):
        return type(value) is kind
    if kind in (int | None, str | None):
        return value is None or (_is(value, type(value)) and type(value) in get_args(kind))
    if get_origin(kind) is Mapping or kind == Mapping[str, str]:
        return isinstance(value, Mapping)
    return True
