"""Checkpoints of a run: complete or not there, and as many as asked for."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llava_rad.errors import TrainingError

_NAME = re.compile(r"step_(\d{8})")


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write ``folder/step_N``; a run killed at any moment leaves only whole checkpoints.

    Args:
        folder: of all checkpoints.
        step: optimiser steps done.
        model: student, teacher and centres.
        optimiser: its state is written too.
        state: plain values to be given back by :func:`load_checkpoint`.
        keep: older ones beyond this many are removed.
    """
    final = folder / f"step_{step:08d}"
    partial = folder / f".partial_{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {
        _plain(name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, partial / "model.safetensors")
    torch.save(optimiser.state_dict(), partial / "optimiser.pt")
    (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
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
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Read a checkpoint into a model and an optimiser of the same configuration.

    Returns:
        The plain values, with ``step``.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    tensors = load_file(path / "model.safetensors")
    names = {_plain(name): name for name in model.state_dict()}
    if names.keys() != tensors.keys():
        differing = sorted(names.keys() ^ tensors.keys())
        raise TrainingError(
            f"the checkpoint is of another model ({len(differing)} tensors differ, first "
            f"{differing[0]!r})",
            where=path,
            remedy="Resume with the configuration the run was started with",
        )
    model.load_state_dict({names[name]: tensor for name, tensor in tensors.items()})
    optimiser.load_state_dict(
        torch.load(path / "optimiser.pt", map_location="cpu", weights_only=True)
    )
    return json.loads((path / "state.json").read_text())


def _plain(name: str) -> str:
    """Drop what DistributedDataParallel adds to names."""
    return name.replace("student.module.", "student.")
