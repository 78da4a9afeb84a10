"""Reading weight files without running any code that they may hold.

The one reader of pickled files in the package: everything else that holds tensors is safetensors.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_rad.errors import WeightsError
from llava_rad.readers import read_json


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Read a weight file without running any code that it may hold.

    Args:
        path: a ``.safetensors`` file, its sharded ``.index.json``, or a PyTorch file (``.pt``,
            ``.pth``, ``.bin``), which is read with ``weights_only=True``.

    Returns:
        The content as stored; a training checkpoint may nest its state dict.

    Raises:
        WeightsError: the file is absent, damaged, or holds more than tensors and plain values.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise WeightsError("there is no such weight file", where=path, remedy="Check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "the file is not a plain PyTorch weight file, or holds objects besides tensors, which "
            "are not loaded because they can run code",
            where=path,
            remedy="Save its state dict alone, best as safetensors, where you trust the file",
            kind="unsafe_pickle",
        ) from error
    except Exception as error:  # zip, pickle, JSON and safetensors readers raise what they like
        if "TorchScript" in str(error):
            raise WeightsError(
                "the file is a TorchScript program, not a state dict",
                where=path,
                remedy="Save the model's state_dict()",
                kind="unsafe_pickle",
            ) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"the weight file cannot be read ({lines[0].rstrip('.')})",
            where=path,
            remedy="Download or save it again: it may have been cut off",
            kind="damaged_weights",
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"the file holds a {type(content).__name__}, not a state dict",
            where=path,
            remedy="Save the model's state_dict()",
        )
    return dict(content)


def _read_shards(index: Path) -> dict[str, Any]:
    """All shards that an index names; they lie beside it and are no index themselves."""
    remedy = "Download the index and its shards again"
    content = read_json(
        index, error=WeightsError, expect=dict, remedy=remedy, kind="damaged_weights"
    )
    names = sorted(set(content["weight_map"].values()))
    for name in names:
        if Path(name).name != name or name.endswith(".json"):
            raise WeightsError(
                f"the index names {name!r}, which is no weight file beside it",
                where=index,
                remedy="Download the index and its shards again",
                kind="damaged_weights",
            )
    parts = [read_state_dict(index.parent / name) for name in names]
    return {key: tensor for part in parts for key, tensor in part.items()}


def _numpy_scalars() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What a number of numpy is made of in a pickle: training checkpoints hold losses as such.

    Making one calls nothing else; arrays and objects of other types stay refused.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    # numpy 1 wrote the function under its older place.
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]
