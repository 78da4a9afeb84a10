"""Loading transformers models with every key accounted for and no chatter."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from llava_rad.encoders.weights import LoadReport, matching
from llava_rad.errors import WeightsError, shown
from llava_rad.quiet import quiet
from llava_rad.readers.text import why
from llava_rad.weight_files import read_state_dict

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load_config(config_class: type[PreTrainedConfig], values: dict[str, Any], where: object) -> Any:
    """Make a configuration from the content of a ``config.json``.

    Raises:
        WeightsError: a value is of the wrong type or out of range.
    """
    # Attention may be named by a hub repository, whose code would then be run.
    kept = _without_attention(values)
    try:
        _check_sizes(kept)  # lists are made of them
        config = config_class.from_dict(kept)
        _check_sizes(config.to_dict())
    except Exception as error:  # transformers' validation raises many kinds
        raise WeightsError(
            f"the configuration is not valid ({why(error)})",
            where=where,
            remedy="Restore the config.json that belongs to the weights",
            kind="bad_config",
        ) from error
    return config


def _without_attention(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the parts of a composite model, with no attention named."""
    return {
        key: _without_attention(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not key.lstrip("_").startswith("attn_implementation")
    }


# Sizes that no tensor's shape shows, or that modules are made by before tensors are read.
_LARGEST = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "image_size", "patch_size"), 2**20),
    **dict.fromkeys(("num_attention_heads", "num_hidden_layers"), 2**12),
}


def _check_sizes(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a size that no network has."""
    for name, largest in _LARGEST.items():
        value = values.get(name)
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and not 1 <= number <= largest:
                raise ValueError(f"{name} is {shown(number)}")
    for name in ("text_config", "vision_config"):
        if isinstance(values.get(name), Mapping):
            _check_sizes(values[name])


def load_model(
    model_class: type[PreTrainedModel],
    folder: Path,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    ignore: Sequence[str] = (),
) -> tuple[Any, LoadReport]:
    """Load a transformers model from a folder; nothing may be newly initialised.

    Args:
        model_class: its own tower class, not an ``AutoModel``.
        folder: holds ``model.safetensors`` or a PyTorch file, sharded or not.
        config: of the model.
        dtype: of the weights in memory.
        ignore: patterns of keys that the file may hold besides the model's own.

    Raises:
        WeightsError: no weights, damaged ones, or keys that do not fit.
    """
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "there are no weights in the folder",
            where=folder,
            remedy=f"Put one of {', '.join(WEIGHT_FILES)} there; a download may be incomplete",
            kind="no_weights",
        )
    pickled = file.name.startswith("pytorch_model")
    state = read_state_dict(file) if pickled else None
    try:
        with quiet(logging.CRITICAL):  # our own report says what it would
            result: Any = model_class.from_pretrained(
                None if pickled else folder,
                config=config,
                state_dict=state,
                dtype=dtype,
                local_files_only=True,
                # A mismatch then comes back in the report instead of as transformers' own error.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, OS and transformers errors
        raise WeightsError(
            f"the weights cannot be read ({why(error).rstrip('.')})",
            where=folder,
            remedy="Download or save them again: they may have been cut off",
            kind="damaged_weights",
        ) from error

    model, info = result
    foreign = sorted(info["unexpected_keys"])
    mismatched = {key: (stored, own) for key, stored, own in info["mismatched_keys"]}
    missing = sorted(set(info["missing_keys"]) - set(mismatched))
    ignored = matching(foreign, ignore)
    report = LoadReport(
        source=str(folder),
        loaded=tuple(sorted(set(model.state_dict()) - set(missing) - set(mismatched))),
        ignored=ignored,
        missing=tuple(missing),
        unexpected=tuple(key for key in foreign if key not in set(ignored)),
        mismatched=tuple(
            f"{key} {list(stored)} against {list(own)}" for key, (stored, own) in mismatched.items()
        ),
    )
    return model, report.require_complete()


def tower_of(model: PreTrainedModel) -> Any:
    """The module with the norms and blocks, which older versions nest as ``vision_model``."""
    return getattr(model, "vision_model", model)


def save_model(model: PreTrainedModel, folder: Path, *, layer: int | None) -> None:
    """Write ``config.json`` and ``model.safetensors``, with the chosen layer in the former."""
    model.config.feature_layer = layer
    with quiet(logging.CRITICAL):
        model.save_pretrained(folder)
