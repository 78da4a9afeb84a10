"""The backbone inside checkpoints of the DINOv2 and DINOv3 repositories and their descendants.

A released file holds the backbone's keys plainly. A training run's holds teacher and student with
their projection heads, in one state dict (``teacher.backbone.blocks.0...``) or nested under
``teacher``, ``student``, ``model`` or ``state_dict``, and with what distributed training puts
into the keys. The teacher is what is used; a checkpoint without one gives its student.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from llava_rad.encoders.weights import matching
from llava_rad.errors import WeightsError

_HEADS = ("dino_head.*", "ibot_head.*")
_WRAPPERS = ("teacher", "student", "model", "state_dict")
_ADDED = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module)\.")
_BLOCK = re.compile(r"^blocks\.(?:\d+\.)?(\d+)\.(.+)$")  # the index after a chunk counts from 0 too


def backbone_of(
    state: Mapping[str, Any], where: object
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unwrap a checkpoint.

    Args:
        state: content of the file.
        where: named in errors.

    Returns:
        The backbone under plain keys, and what is knowingly left out.

    Raises:
        WeightsError: two keys name the same tensor.
    """
    while wrapper := next((w for w in _WRAPPERS if isinstance(state.get(w), Mapping)), None):
        state = state[wrapper]
    plain = {_ADDED.sub("", key): value for key, value in state.items()}
    sides = ("teacher", "student")
    side = next((s for s in sides if any(key.startswith(f"{s}.") for key in plain)), "")
    left_out: dict[str, Tensor] = {}
    for prefix, others in ((f"{side}.", ("student.*",)), ("backbone.", _HEADS)):
        if any(key.startswith(prefix) for key in plain):
            rest = {key: value for key, value in plain.items() if not key.startswith(prefix)}
            left_out |= {key: rest[key] for key in matching(list(rest), others)}
            plain = {
                key.removeprefix(prefix): value
                for key, value in plain.items()
                if key not in left_out
            }
    if len({_BLOCK.sub(r"blocks.\1.\2", key) for key in plain}) < len(plain):
        raise WeightsError(
            "two keys name the same tensor of a block",
            where=where,
            remedy="Use a state dict that is either chunked (blocks.0.0.) or not (blocks.0.)",
            kind="keys_do_not_fit",
        )
    return plain, left_out


def require_backbone(
    backbone: Mapping[str, Any], needed: Sequence[str], method: str, where: object
) -> None:
    """Check that a weight file has what tells a backbone's sizes.

    Raises:
        WeightsError: a key is missing; ``method`` names the repository whose layout it should be.
    """
    missing = [key for key in needed if key not in backbone]
    if missing:
        raise WeightsError(
            f"not a {method} backbone: {', '.join(missing)} missing",
            where=where,
            remedy=f"Name a file with the backbone's weights, in the layout of the {method} "
            "repository, or a transformers folder",
            kind="keys_do_not_fit",
        )
