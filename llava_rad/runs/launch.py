"""How a training program starts and ends: settings, processes, messages, exit codes.

A finished run exits with 0, a failed one with 1 and one line that says why, one with wrong settings
with 2, one that a signal stopped with 130 (SIGINT) or 143 (SIGTERM).
"""

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import InitProcessGroupKwargs
from safetensors import SafetensorError

from llava_rad.config import load_config
from llava_rad.errors import LlavaRadError
from llava_rad.runs.checkpoints import FOLDER, resume_hint
from llava_rad.runs.stopping import Interrupted, handling, stop_at_once, stop_with_launcher
from llava_rad.runs.together import disk_error

Config = TypeVar("Config")

# Filling a cache or saving a checkpoint may take the others hours of waiting. A process that dies
# is noticed by the launcher, not by this.
_PATIENCE = timedelta(days=1)


def process_group(backend: str | None = None) -> InitProcessGroupKwargs:
    """How the processes of a run are joined, for Accelerate."""
    values: dict[str, Any] = {"timeout": _PATIENCE}
    return InitProcessGroupKwargs(**values if backend is None else {**values, "backend": backend})


def run_program(
    main: Callable[[Config], None],
    config_class: type[Config],
    path: Path,
    overrides: Sequence[str] = (),
) -> None:
    """Load the settings, run a training and exit as the module's text says.

    Args:
        main: the training; its settings have ``output``, the run's folder.
        config_class: of its settings.
        path: of the YAML file with them.
        overrides: ``key=value`` texts.
    """
    logging.basicConfig(format="%(levelname)s %(message)s")
    config: Any = None
    stop_with_launcher()
    with handling(stop_at_once):
        try:
            config = load_config(config_class, path, overrides)
            main(config)
        except Interrupted as stopped:
            if _rank() == 0:
                _tell(f"{stopped}{_and_then(config)}")
            code = 128 + stopped.number
        except LlavaRadError as error:
            if not error.told:
                then = _and_then(config) if error.kind == "disk" else ""
                _tell(f"error: {str(error).rstrip('.')}{then}." if then else f"error: {error}")
            code = error.exit_code
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = disk_error(error) or _of_others(error)
            if reason is None:
                raise
            _tell(f"error: {str(reason).rstrip('.')}{_and_then(config)}.")
            code = 1
        else:
            code = 0
    sys.exit(code)


def _and_then(config: Any) -> str:
    if config is None:
        return ""
    hint = resume_hint(config.output / FOLDER)
    return f"; {hint}"


def _of_others(error: Exception) -> str | None:
    """What to say where a collective operation failed because its partner has ended."""
    text = str(error)
    if isinstance(error, torch.distributed.DistError) or "gloo" in text or "NCCL" in text:
        return "another process of this run has ended, its own message says why"
    return None


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
