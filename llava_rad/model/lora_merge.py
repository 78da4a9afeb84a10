"""A saved LoRA added to the weights of its LLM while that is loaded, without peft.

For inference alone: the result is that of :func:`llava_rad.model.lora.merge_lora`, without the
wrapper in between and without peft's imports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llava_rad.model.lora import (
    WEIGHTS_FILE,
    load_lora,
    merge_lora,
    read_lora_config,
    require_finite,
    require_same_tensors,
)
from llava_rad.tensor_files import read_tensors, require_fingerprint

# Settings that do not change what is added, or that are followed here.
_PLAIN = {"r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "fan_in_fan_out"}


def add_saved_lora(llm: Any, folder: Path, *, expected: str | None = None) -> Any:
    """Add the LoRA saved in ``folder`` to the LLM's weights.

    Settings beyond rank, scale and named layers (DoRA, ranks of single layers, biases) are left
    to peft.

    Args:
        llm: the base LLM with plain weights; changed in place.
        folder: in peft's layout.
        expected: fingerprint of its weights, if it is known.

    Returns:
        The LLM.

    Raises:
        WeightsError: a file or a tensor is missing or damaged, or one is there that the LLM has no
            place for.
        ModelError: the sum is not finite.
        MissingExtraError: the LoRA needs peft, which is not installed.
    """
    values = read_lora_config(folder)
    if not _is_plain(values):
        return merge_lora(load_lora(llm, folder, expected=expected))
    file = folder / WEIGHTS_FILE
    tensors = read_tensors(file)
    layers = _layers(llm, values["target_modules"])
    require_same_tensors(_shapes(layers, values["r"]), tensors, where=file)
    require_fingerprint(tensors, expected, where=file)
    rank = values["r"]
    scale = values.get("lora_alpha", 8) / (rank**0.5 if values.get("use_rslora") else rank)
    for name, layer in layers.items():
        weight: Any = layer.weight.data
        down, up = (tensors[key].to(weight.device, torch.float32) for key in _keys(name))
        update = (up @ down).mul_(scale)
        weight += update.T if isinstance(layer, Conv1D) else update  # rounded once, to its dtype
        require_finite(weight)
    llm.requires_grad_(False)
    return llm


def _is_plain(values: Mapping[str, Any]) -> bool:
    further = {k: v for k, v in values.items() if k not in _PLAIN and v}
    return isinstance(values["target_modules"], list) and further in ({}, {"bias": "none"})


def _layers(llm: Any, targets: list[str]) -> dict[str, nn.Module]:
    """The layers that are meant, as peft takes them by the ends of their names."""
    return {
        name: module
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and any(f".{name}".endswith(f".{target}") for target in targets)
    }


def _keys(name: str) -> tuple[str, str]:
    prefix = f"base_model.model.{name}"
    return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"


def _shapes(layers: Mapping[str, nn.Module], rank: int) -> dict[str, Tensor]:
    """Tensors without memory, of the names and shapes of the layers' updates."""
    found = {}
    for name, layer in layers.items():
        sides: Any = layer.weight.shape
        out, into = reversed(sides) if isinstance(layer, Conv1D) else sides
        down, up = _keys(name)
        found[down] = torch.empty(rank, into, device="meta")
        found[up] = torch.empty(out, rank, device="meta")
    return found
