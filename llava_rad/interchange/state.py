"""Weights of a transformers folder, whole or not at all, and no code of it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from llava_rad.encoders.hf import WEIGHT_FILES
from llava_rad.encoders.weights import LoadReport, matching
from llava_rad.errors import WeightsError
from llava_rad.quiet import quiet
from llava_rad.readers.text import why
from llava_rad.weight_files import read_state_dict

#: Tables that old versions saved and new ones compute.
_COMPUTED = ("*rotary_emb.inv_freq", "*position_ids")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a transformers folder, sharded or not; PyTorch files without running code.

    Raises:
        WeightsError: there are none, or a file is damaged or holds more than tensors.
    """
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "there are no weights in the folder",
            where=folder,
            remedy=f"Put one of {', '.join(WEIGHT_FILES)} there; a download may be incomplete",
            kind="no_weights",
        )
    return read_state_dict(file)


def module_from_state(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    source: object,
) -> Any:
    """Make a module from its tensors under any names that transformers reads.

    Args:
        model_class: to make.
        config: of it.
        state: its tensors; a name that it does not have is an error.
        dtype: of the weights in memory.
        source: named in errors.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape, or a setting is one that
            no such module has.
    """
    left_out = set(matching(list(state), _COMPUTED))
    kept = {key: tensor for key, tensor in state.items() if key not in left_out}
    try:
        with quiet():
            result: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=kept,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # they come back in the report instead
                output_loading_info=True,
            )
    except Exception as error:  # settings that fit no layer raise many kinds
        raise WeightsError(
            f"no {model_class.__name__} can be made of these settings and tensors ({why(error)})",
            where=source,
            remedy="Use the files as they were published, all of one and the same model",
            kind="bad_config",
        ) from error
    module, info = result
    mismatched = {
        key: f"{key} {list(a)} against {list(b)}" for key, a, b in info["mismatched_keys"]
    }
    missing = set(info["missing_keys"]) - set(mismatched)
    LoadReport(
        source=str(source),
        loaded=tuple(sorted(set(module.state_dict()) - missing - set(mismatched))),
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(info["unexpected_keys"])),
        mismatched=tuple(mismatched.values()),
    ).require_complete()
    return module.eval()
