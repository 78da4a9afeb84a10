"""Accounting for every key of a weight file."""

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
