"""Checkpoints of a run: trained weights, optimiser and step; complete or not there at all.

All else that a step depends on (order, dropout, learning rate) is a function of the seed and the
step, so nothing more is needed to go on exactly.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_rad.errors import TrainingError
from llava_rad.readers import CONSTANTS, read_json

_NAME = re.compile(r"(align|finetune)-(\d{7})")
_WEIGHTS, _OPTIMISER, _FACTS = "weights.safetensors", "optimiser.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can go on.

    Attributes:
        path: its folder.
        stage: the stage it was made in.
        step: optimiser steps of that stage done.
    """

    path: Path
    stage: str
    step: int

    def facts(self) -> dict[str, Any]:
        """The plain values it was saved with.

        Raises:
            TrainingError: damaged.
        """
        try:
            return read_json(
                self.path / _FACTS, error=TrainingError, expect=dict, constants=CONSTANTS
            )
        except TrainingError as error:
            raise _damaged(self.path, error) from error

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Trained weights and optimiser state, by name.

        Raises:
            TrainingError: damaged.
        """
        try:
            return load_file(self.path / _WEIGHTS), load_file(self.path / _OPTIMISER)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.path, error) from error


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """The whole checkpoints of a folder in the order they were made."""
    found = []
    for path in folder.glob("*-*"):
        if match := _NAME.fullmatch(path.name):
            found.append(Checkpoint(path, match[1], int(match[2])))
    return sorted(found, key=lambda c: (c.stage, c.step))  # align comes before finetune


def save_checkpoint(
    folder: Path,
    stage: str,
    step: int,
    weights: Mapping[str, Tensor],
    optimiser: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    keep: int,
) -> Checkpoint:
    """Write ``folder/STAGE-STEP``, read it back, and remove older ones.

    Args:
        folder: of all checkpoints.
        stage: of the run.
        step: optimiser steps of the stage done.
        weights: trained weights, whole, on the CPU.
        optimiser: its state, whole, on the CPU.
        facts: plain values to be given back by :meth:`Checkpoint.facts`.
        keep: how many to keep, this one included.

    Raises:
        TrainingError: the disk refuses, or what is read back differs; older checkpoints stay.
    """
    final = folder / f"{stage}-{step:07d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file(dict(weights), partial / _WEIGHTS)
        save_file(dict(optimiser), partial / _OPTIMISER)
        (partial / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for file in partial.iterdir():
            _flush(file)
        for name, saved in ((_WEIGHTS, weights), (_OPTIMISER, optimiser)):
            _compare(load_file(partial / name), saved, partial / name)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint cannot be written ({error})",
            where=folder,
            remedy="Free space and start the same command again: it goes on from the checkpoint "
            "before",
            kind="checkpoint_not_written",
        ) from error
    for old in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(final, stage, step)


def _compare(found: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: Path) -> None:
    wrong = sorted(found.keys() ^ saved.keys()) or [
        name for name, tensor in saved.items() if not torch.equal(found[name], tensor)
    ]
    if wrong:
        raise TrainingError(
            f"what was saved reads back otherwise ({len(wrong)} tensors, first {wrong[0]})",
            where=where,
            remedy="Check the disk",
            kind="checkpoint_differs",
        )


def _flush(path: Path) -> None:
    """Have the system write a file or folder to the disk before anything depends on it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"the checkpoint is damaged ({error})",
        where=path,
        remedy="Delete this folder and start again: the run goes on from the checkpoint before",
        kind="damaged_checkpoint",
    )


def find_resumable(
    folder: Path, config: Mapping[str, Any], hashes: Mapping[str, str], *, allowed: bool
) -> Checkpoint | None:
    """The checkpoint to go on from, or None for a fresh start.

    Args:
        folder: of all checkpoints.
        config: the settings that decide the weights; a checkpoint of others is refused.
        hashes: of the manifests; other studies are refused too.
        allowed: whether to go on from a checkpoint at all.

    Raises:
        TrainingError: there are checkpoints, and the run may not or cannot go on from them.
    """
    found = find_checkpoints(folder)
    if not found:
        return None
    if not allowed:
        raise TrainingError(
            "the folder holds checkpoints of an earlier run",
            where=folder,
            remedy="Give another output, or resume=auto",
            kind="output_taken",
        )
    facts = found[-1].facts()
    before, now = facts["config"], json.loads(json.dumps(config))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if facts["manifests"] != dict(hashes):
        changed.append("content of the manifests")
    if changed:
        raise TrainingError(
            f"the run that is to go on had another {', '.join(changed)}",
            where=folder,
            remedy="Go on with the settings in the run's config.yaml, or give another output",
            kind="changed_run",
        )
    return found[-1]
