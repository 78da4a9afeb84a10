"""LoRA on the LLM, and only there."""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from llava_rad.config import Count, Range, check_ranges
from llava_rad.errors import ModelError, WeightsError
from llava_rad.files import cast, read_tensors, write_tensors
from llava_rad.kernels.lora_linear import LoraLinear

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of every linear layer of the LLM except its head.

    The defaults are those of the published LLaVA-Rad recipe.

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of the update, in training.
    """

    r: Count = 64
    alpha: Count = 128
    dropout: Annotated[float, Range(0, below=1)] = 0.05

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def attach_lora(llm: Any, settings: LoraSettings) -> PeftModel:
    """Wrap the LLM; only the LoRA parameters are trainable afterwards.

    The layers are found by type in the LLM itself, which suits every family (Llama's
    ``q_proj``, Phi-2's ``fc1``, Phi-3's ``qkv_proj``) and cannot reach the encoder.
    """
    if isinstance(llm, PeftModel):
        raise ModelError("the LLM already has LoRA layers", remedy="Merge them first, or go on")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    return _wrap(llm, config)


def _wrap(llm: Any, config: LoraConfig) -> Any:
    # bitsandbytes' layers are linear layers too, and peft has its own for them.
    if getattr(llm, "quantization_method", None) is None:
        config._register_custom_module({nn.Linear: LoraLinear})
    with warnings.catch_warnings():
        # peft reads a property that transformers has renamed
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return get_peft_model(llm, config)


def save_lora(llm: PeftModel, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    config = llm.peft_config["default"].to_dict()
    # The base is named in the model's own config; a path of this machine would be noise.
    config["base_model_name_or_path"] = None
    config["inference_mode"] = True
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=str) + "\n")
    write_tensors(cast(get_peft_model_state_dict(llm), dtype), folder / WEIGHTS_FILE)


def load_lora(llm: Any, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach the LoRA saved in ``folder``.

    Raises:
        WeightsError: a file or a tensor is missing, or one is there that the LLM has no place for.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise WeightsError(
            "the LoRA's configuration is missing",
            where=folder / CONFIG_FILE,
            remedy="Copy the whole model folder again",
            kind="missing_file",
        )
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = not trainable
    wrapped = _wrap(llm, config)
    tensors = read_tensors(folder / WEIGHTS_FILE)
    expected = set(get_peft_model_state_dict(wrapped))
    report_difference(expected, set(tensors), where=folder / WEIGHTS_FILE)
    set_peft_model_state_dict(wrapped, tensors)
    return wrapped


def report_difference(expected: set[str], found: set[str], *, where: Path) -> None:
    """Raise WeightsError naming missing and unexpected tensors, if there are any."""
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if not missing and not unexpected:
        return
    parts = []
    for word, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
    raise WeightsError(
        f"tensors do not fit: {'; '.join(parts)}",
        where=where,
        remedy="Use the weights and the configuration of one and the same model",
        kind="missing_keys" if missing else "unexpected_keys",
    )


def merge_lora(llm: Any) -> Any:
    """The plain LLM with the LoRA added to its weights; a plain LLM is returned as it is."""
    if not isinstance(llm, PeftModel):
        return llm
    merged = llm.merge_and_unload()
    for parameter in merged.parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError("merging the LoRA gave non-finite weights", kind="not_finite")
    return merged
