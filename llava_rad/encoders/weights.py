"""Reading weight files and accounting for every key in them."""

import fnmatch
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from llava_rad.errors import WeightsError

_LOG = logging.getLogger(__name__)
_SHOWN = 12


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights were loaded.

    Attributes:
        source: where the weights came from.
        loaded: keys of the model that were filled.
        ignored: keys of the file that the loader was told not to need, such as a text tower.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: keys in both whose shapes differ, with both shapes.
    """

    source: str
    loaded: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(keys)} {kind}" for kind, keys in vars(self).items() if kind != "source" and keys
        )
        return f"{self.source}: {counts or 'no tensors'}"

    def require_complete(self) -> "LoadReport":
        """Return the report, or refuse the weights if any key is unaccounted for.

        Raises:
            WeightsError: naming the missing, unexpected and mismatched keys.
        """
        faults = {
            kind: keys
            for kind in ("missing", "unexpected", "mismatched")
            if (keys := getattr(self, kind))
        }
        if faults or not self.loaded:
            listed = "; ".join(f"{kind} {_shorten(keys)}" for kind, keys in faults.items())
            raise WeightsError(
                "the weights do not fit the architecture: " + (listed or "no tensor was loaded"),
                where=self.source,
                remedy="Check that configuration and weights belong together; a training "
                "checkpoint must hold the whole encoder",
                kind="keys_do_not_fit",
            )
        _LOG.info("%s", self)
        return self


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Read a weight file without running any code that it may hold.

    Args:
        path: a ``.safetensors`` file, its sharded ``.index.json``, or a PyTorch file
            (``.pt``, ``.pth``, ``.bin``), which is read with ``weights_only=True``.

    Returns:
        The content as stored; a training checkpoint may nest its state dict.

    Raises:
        WeightsError: the file is absent, damaged, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError("there is no such weight file", where=path, remedy="Check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.name.endswith(".index.json"):
            shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
            parts = [read_state_dict(path.parent / shard) for shard in shards]
            return {key: tensor for part in parts for key, tensor in part.items()}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "the file is not a plain PyTorch weight file, or holds objects besides tensors, which "
            "are not loaded because they can run code",
            where=path,
            remedy="Save its state dict alone, best as safetensors, where you trust the file",
            kind="unsafe_pickle",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise WeightsError(
            f"the weight file cannot be read ({error})",
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


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: object,
    ignore: Sequence[str] = (),
) -> LoadReport:
    """Copy a state dict into a module and account for every key.

    Args:
        module: takes the values in its own dtype.
        state: keys as in ``module.state_dict()``.
        source: named in the report and in errors.
        ignore: patterns (``text.*``) of keys that ``state`` may hold and the module does not need.

    Raises:
        WeightsError: any key is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    fits = {key for key in state if key in own and state[key].shape == own[key].shape}
    foreign = [key for key in state if key not in own]
    ignored = matching(foreign, ignore)
    report = LoadReport(
        source=str(source),
        loaded=tuple(sorted(fits)),
        ignored=ignored,
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in foreign if key not in set(ignored)),
        mismatched=tuple(
            f"{key} {list(state[key].shape)} against {list(own[key].shape)}"
            for key in state
            if key in own and key not in fits
        ),
    ).require_complete()
    module.load_state_dict({key: state[key] for key in fits})
    return report


def matching(keys: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The keys that match one of the patterns."""
    return tuple(key for key in keys if any(fnmatch.fnmatchcase(key, p) for p in patterns))


def _shorten(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    rest = len(keys) - _SHOWN
    return f"{len(keys)} ({shown}{f' and {rest} more' if rest > 0 else ''})"
