"""Starting from projection heads that were trained before.

RAD-DINO's repository publishes its DINO head as ``dino_head.safetensors``, this project's encoder
folders hold one too, and the original repository's training checkpoints hold both heads next to
the backbone. New heads under a trained backbone would first pull it towards noise, so where there
are none, :class:`llava_rad.dinov2.config.ScheduleConfig` has a period in which only they train.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llava_rad.dinov2.student_teacher import Network
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError
from llava_rad.weight_files import read_state_dict

_HEADS = ("dino_head", "ibot_head")
_KEY = re.compile(r"(?:module\.|teacher\.)*(?:(dino_head|ibot_head)\.)?((?:mlp|last_layer)\..+)")
# Newer versions of torch name the two parts of weight normalisation otherwise.
_PARAMETRIZED = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}


def load_heads(network: Network, path: Path) -> list[str]:
    """Fill the heads of a network.

    Args:
        network: its head sizes must be those of the file.
        path: a ``dino_head.safetensors``; an encoder folder that holds one, with or without an
            ``ibot_head.safetensors``; or a training checkpoint of the original repository, of which
            the teacher's heads are taken.

    Returns:
        The heads that were filled, ``dino_head`` first. A separate head for patches stays as it is
        where the file has none.

    Raises:
        WeightsError: there is no DINO head, or a tensor is missing or of another shape.
    """
    states = _read(path)
    if "dino_head" not in states:
        raise WeightsError(
            "there is no DINO head",
            where=path,
            remedy="Name a dino_head.safetensors, an encoder folder that holds one, or a training "
            "checkpoint of the DINOv2 repository",
            kind="no_heads",
        )
    filled = []
    for name in _HEADS:
        head: nn.Module | None = getattr(network, name)
        if head is not None and name in states:
            try:
                load_into(head, states[name], source=f"{path}, {name}")
            except WeightsError as error:
                raise WeightsError(
                    error.what,
                    where=error.where,
                    remedy=f"Set {'head' if name == 'dino_head' else 'ibot_head'} to the sizes in "
                    "the file: prototypes, hidden_dim, bottleneck_dim and layers",
                    kind=error.kind,
                ) from error
            filled.append(name)
    return filled


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors by head and by plain name."""
    if not path.is_dir():
        return _by_head(read_state_dict(path))
    states = {}
    for name in _HEADS:
        file = path / f"{name}.safetensors"
        if file.is_file():
            found = _by_head(read_state_dict(file))
            states[name] = found.get(name) or found.get("dino_head") or {}
    return states


def _by_head(state: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    for wrapper in ("teacher", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    heads: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if match := _KEY.fullmatch(key):
            name = _PARAMETRIZED.get(match[2], match[2])
            heads.setdefault(match[1] or "dino_head", {})[name] = tensor
    return heads
