"""Checkpoints of a run: complete or not there at all, and known when they are damaged.

A checkpoint is a folder ``STAGE-STEP``: groups of whole tensors, each a safetensors file with
checksums, and ``state.json`` with plain values and the checksum of each file. Tensors are whole, so
a run may be resumed on more or fewer processes, split or not. All else that a step depends on
(order, dropout, learning rate) is a function of the seed and the step.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.errors import DataError, LlavaRadError, TrainingError, WeightsError
from llava_rad.files import (
    clear_leftovers,
    read_sealed,
    read_tensors,
    write_folder_atomically,
    write_sealed,
    write_tensors,
)
from llava_rad.runs.settings import differences

FOLDER = "checkpoints"
_NAME = re.compile(r"([a-z]+)-(\d{7,})")
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can be resumed.

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
        return self._state()["facts"]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """One group of its tensors, by name.

        Raises:
            TrainingError: damaged.
        """
        try:
            return read_tensors(
                self.path / f"{group}.safetensors", seal=self._state()["seals"][group]
            )
        except (KeyError, WeightsError) as error:
            raise _damaged(self.path, error) from error

    def check(self) -> None:
        """Read everything and compare it with its checksums.

        Raises:
            TrainingError: damaged.
        """
        for group in self._state()["seals"]:
            self.tensors(group)

    def _state(self) -> dict[str, Any]:
        try:
            state = read_sealed(self.path / _STATE)
        except (OSError, DataError) as error:
            raise _damaged(self.path, error) from error
        if (state["stage"], state["step"]) != (self.stage, self.step):
            raise _damaged(self.path, "it is another checkpoint under this name")
        return state


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a folder in the order they were made."""
    found = []
    for path in folder.glob("*-*"):
        if match := _NAME.fullmatch(path.name):
            found.append(Checkpoint(path, match[1], int(match[2])))
    return sorted(found, key=lambda c: (c.stage, c.step))  # align comes before finetune


def save_checkpoint(
    folder: Path,
    stage: str,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    *,
    keep: int,
) -> Checkpoint:
    """Write ``folder/STAGE-STEP`` and remove older ones.

    Args:
        folder: of all checkpoints; the folder it lies in is there.
        stage: of the run.
        step: optimiser steps of the stage done.
        tensors: whole, on the CPU, by group and name.
        facts: plain values to be given back by :meth:`Checkpoint.facts`.
        keep: how many to keep, this one included.

    Raises:
        TrainingError: a tensor is not finite, or the disk refuses; older checkpoints stay.
    """
    for group in tensors.values():
        for name, tensor in group.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise TrainingError(
                    f"{name} is not finite: no checkpoint is written",
                    where=f"{stage}, step {step}",
                    remedy="Start again in another output with a lower learning rate, or "
                    "precision=fp32",
                    kind="not_finite",
                )
    final = folder / f"{stage}-{step:07d}"
    try:
        folder.mkdir(exist_ok=True)
        clear_leftovers(folder)
        with write_folder_atomically(final) as partial:
            seals = {
                name: write_tensors(group, partial / f"{name}.safetensors")
                for name, group in tensors.items()
                if group
            }
            state = {"stage": stage, "step": step, "facts": dict(facts), "seals": seals}
            write_sealed(partial / _STATE, state)
    except (OSError, WeightsError) as error:
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written ({_reason(error)})",
            where=folder,
            remedy=f"Free space, or correct the rights; {resume_hint(folder)}",
            kind="checkpoint_not_written",
        ) from error
    for old in find_checkpoints(folder)[:-keep]:
        with contextlib.suppress(OSError):
            shutil.rmtree(old.path)
    return Checkpoint(final, stage, step)


def resume_hint(folder: Path) -> str:
    """What starting the same command again does, as far as can be told without reading it all.

    Args:
        folder: of the checkpoints.
    """
    found = find_checkpoints(folder)
    if not found:
        return "there is no checkpoint: the same command starts from the beginning"
    last = found[-1]
    return f"the same command resumes at {last.stage} step {last.step}"


def find_resumable(
    folder: Path,
    settings: Mapping[str, Any],
    manifests: Mapping[str, str],
    *,
    allowed: bool = True,
    say: Callable[[str], object] = print,
) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None for a fresh start.

    A damaged one is told of and put aside under ``NAME.damaged``.

    Args:
        folder: of all checkpoints.
        settings: those that decide the weights; a checkpoint of others is refused.
        manifests: hashes by name; other contents are refused too.
        allowed: whether to resume at all.
        say: is given what a person should know.

    Raises:
        TrainingError: there are checkpoints, and the run may not or cannot be resumed from them.
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
    damaged: list[tuple[Checkpoint, TrainingError]] = []
    for checkpoint in reversed(found):
        try:
            facts = checkpoint.facts()
            _compare(facts, settings, manifests, folder)
            checkpoint.check()
        except TrainingError as error:
            if error.kind != "damaged_checkpoint":
                raise
            damaged.append((checkpoint, error))
            continue
        for bad, why in damaged:
            aside = bad.path.with_name(f"{bad.path.name}.damaged")
            say(f"WARNING: {bad.path.name} {why.what}; it is kept as {aside.name}")
            with contextlib.suppress(OSError):
                shutil.rmtree(aside, ignore_errors=True)
                bad.path.rename(aside)
        return checkpoint
    raise TrainingError(
        f"no checkpoint of the run can be read: {damaged[0][0].path.name} {damaged[0][1].what}",
        where=folder,
        remedy="Give another output, or delete this folder to start from the beginning",
        kind="damaged_checkpoint",
    )


def _compare(
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    manifests: Mapping[str, str],
    folder: Path,
) -> None:
    changed = differences(facts["settings"], settings)
    before = facts["manifests"]
    for name in sorted(before.keys() | manifests.keys()):
        if name in before and name in manifests and before[name] != manifests[name]:
            changed.append(f"{name}: another content than in the run")
        elif (name in before) != (name in manifests):
            changed.append(f"{name}: {'in the run only' if name in before else 'not in the run'}")
    if changed:
        raise TrainingError(
            f"the run that is to be resumed differs: {'; '.join(changed)}",
            where=folder.parent,
            remedy="Resume with the settings and manifests of its config.yaml, or give another "
            "output",
            kind="changed_run",
        )


def _damaged(path: Path, error: object) -> TrainingError:
    return TrainingError(f"is damaged ({_reason(error)})", where=path, kind="damaged_checkpoint")


def _reason(error: object) -> str:
    if isinstance(error, LlavaRadError):
        return error.what
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
