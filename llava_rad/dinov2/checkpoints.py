"""Checkpoints of a run: complete or not there, and as many as asked for.

They hold whole tensors, so that a run may go on with more or fewer processes, split or not.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_rad.dinov2.sharding import like, load_whole_state, plain_name, whole, whole_state
from llava_rad.errors import TrainingError
from llava_rad.readers import CONSTANTS, read_json
from llava_rad.weight_files import read_state_dict

_NAME = re.compile(r"step_(\d{8})")
_WATCH = "watch."


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    watch: dict[str, Tensor],
    settings: dict[str, Any],
    *,
    keep: int,
    writes: bool,
) -> Path:
    """Write ``folder/step_N``; a run killed at any moment leaves only whole checkpoints.

    Every process has to call this, since split tensors are gathered.

    Args:
        folder: of all checkpoints.
        step: optimiser steps done.
        model: student, teacher and centres.
        optimiser: its state is written too.
        watch: what has been collected in the epoch so far.
        settings: that a run going on from here must have.
        keep: older ones beyond this many are removed.
        writes: whether this is the process that writes.
    """
    tensors = whole_state(model, keep=writes)
    optimiser_state = _whole_optimiser(optimiser, keep=writes)
    final = folder / f"step_{step:08d}"
    if not writes:
        return final
    partial = folder / f".partial_{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors |= {_WATCH + name: tensor.cpu().contiguous() for name, tensor in watch.items()}
    save_file(tensors, partial / "model.safetensors")
    torch.save(optimiser_state, partial / "optimiser.pt")
    (partial / "state.json").write_text(json.dumps({"step": step, "settings": settings}, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if _NAME.fullmatch(path.name))


def load_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: dict[str, Any]
) -> tuple[int, dict[str, Tensor]]:
    """Read a checkpoint into a model and an optimiser.

    Every process has to call this.

    Returns:
        The optimiser steps done, and what had been collected in the epoch.

    Raises:
        TrainingError: the checkpoint was made with other settings, which are named.
        WeightsError: the optimiser's file is damaged, or holds more than tensors and numbers.
    """
    saved = read_json(
        path / "state.json",
        error=TrainingError,
        expect=dict,
        remedy="Delete this checkpoint, and the one before it is taken",
        constants=CONSTANTS,
    )
    if differing := _differing(saved["settings"], json.loads(json.dumps(settings))):
        raise TrainingError(
            f"the checkpoint was made with other settings: {', '.join(differing)}",
            where=path,
            remedy="Resume with the settings of config.yaml beside the checkpoints, or choose "
            "another output folder",
            kind="other_settings",
        )
    tensors = load_file(path / "model.safetensors")
    watch = {
        name.removeprefix(_WATCH): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_WATCH)
    }
    names = {plain_name(name) for name in model.state_dict()}
    if names != tensors.keys():
        strange = sorted(names ^ tensors.keys())
        raise TrainingError(
            f"the checkpoint is of another model ({len(strange)} tensors, first {strange[0]!r})",
            where=path,
            remedy="Resume with the same encoder and the same version of this program",
            kind="other_model",
        )
    load_whole_state(model, tensors)
    state = read_state_dict(path / "optimiser.pt")
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        for key, value in values.items():
            if value.shape == parameters[number].shape and value.ndim:
                values[key] = like(parameters[number], value)
    optimiser.load_state_dict(state)
    return int(saved["step"]), watch


def _whole_optimiser(optimiser: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    state = optimiser.state_dict()
    parameters: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        gathered = {key: whole(value) for key, value in values.items()}
        if keep:
            parameters[number] = {key: value.cpu() for key, value in gathered.items()}
    return {**state, "state": parameters}


def _differing(saved: Any, own: Any, name: str = "") -> list[str]:
    """Return the dotted names of the settings that differ."""
    if isinstance(saved, dict) and isinstance(own, dict):
        names = sorted(saved.keys() | own.keys())
        return [
            found
            for key in names
            for found in _differing(saved.get(key), own.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if saved == own else [f"{name} {saved!r} against {own!r}"]
