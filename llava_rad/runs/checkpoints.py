"""Checkpoints of a run: complete or not there at all, and known when they are damaged.

A checkpoint is a folder ``STAGE-STEP``: a safetensors file of each process that holds something
(:mod:`llava_rad.runs.parts`), and ``state.json`` with plain values and the checksum of each file. A
run may be resumed on more or fewer processes, split or not: each reads what it needs. All else that
a step depends on (order, dropout, learning rate) is a function of the seed and the step.
"""

import contextlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from llava_rad.errors import DataError, LlavaRadError, TrainingError, WeightsError
from llava_rad.files import clear_leftovers, read_sealed, write_folder_atomically, write_sealed
from llava_rad.runs.parts import Gathered, Part, SavedTensors, part_of, write_parts
from llava_rad.runs.settings import differences
from llava_rad.runs.state import plain_name
from llava_rad.runs.together import (
    Processes,
    gathered,
    in_all,
    on_main,
    raise_in_all,
    told_by_another,
)
from llava_rad.tensor_files import check_tensors

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

    def tensors(self, group: str) -> SavedTensors:
        """One group of its tensors by name, read when they are asked for.

        Raises:
            TrainingError: a file is missing or no such file.
        """
        try:
            return SavedTensors(sorted(self._files()), f"{group}/")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _damaged(self.path, error) from error

    def check(self, processes: Processes | None = None) -> None:
        """Read everything and compare it with its checksums; processes share the files.

        Raises:
            TrainingError: damaged.
        """
        rank, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
        for file, seal in sorted(self._files().items())[rank::count]:
            try:
                check_tensors(file, seal=seal)
            except WeightsError as error:
                raise _damaged(self.path, error) from error

    def _files(self) -> dict[Path, str]:
        """The files of its tensors, and their seals."""
        return {self.path / name: seal for name, seal in self._state()["seals"].items()}

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
    return sorted(found, key=lambda c: (c.stage, c.step))  # the alphabet's order is theirs


class CheckpointWriter:
    """Writes the checkpoints of a run, all its processes together.

    Each process writes what it alone holds; what all hold, or gather, the main process writes. In
    the background, a copy of a process's own part is made in the host's memory and written while
    training goes on; the checkpoint is there from the next call of :meth:`settle` on that finds it
    written by all.

    Args:
        folder: of all checkpoints; the folder it lies in is there, and all processes see it.
        processes: of the run.
        keep: how many checkpoints to keep, a new one included.
        background: write in the background.
    """

    def __init__(
        self, folder: Path, processes: Processes, *, keep: int, background: bool = False
    ) -> None:
        self._folder = folder
        self._processes = processes
        self._keep = keep
        self._background = background
        self._pending: _Pending | None = None

    def save(
        self,
        stage: str,
        step: int,
        groups: Mapping[str, Mapping[str, Tensor | Gathered]],
        facts: Mapping[str, Any],
        *,
        check: bool = False,
    ) -> None:
        """Write ``folder/STAGE-STEP``, and remove older ones when it is there.

        Every process has to call this, as the other methods.

        Args:
            stage: of the run.
            step: optimiser steps of the stage done.
            groups: tensors by group and name.
            facts: plain values to be given back by :meth:`Checkpoint.facts`.
            check: read it back.

        Raises:
            TrainingError: a tensor is not finite, or the disk refuses; older checkpoints stay.
        """
        self.settle()
        is_main = self._processes.is_main_process
        parts = {
            f"{group}/{plain_name(name)}": part_of(tensor, is_main)
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        }
        pending = _Pending(self._folder, stage, step, dict(facts))
        pending.partial = on_main(self._processes, pending.begin)
        name = f"shard-{self._processes.process_index + 1:05d}-model-00001-of-00001.safetensors"
        self._pending = pending
        if self._background and not check:
            copies = {name: _copied(part) for name, part in parts.items()}
            pending.start(copies, name)
        else:
            pending.write(parts, name)
            self.settle()
        if check:
            saved = Checkpoint(pending.final, stage, step)
            in_all(self._processes, lambda: saved.check(self._processes))

    def settle(self, *, wait: bool = True) -> None:
        """Make a checkpoint that all processes have written be there.

        Args:
            wait: until they have; else it is left for a later call if one has not.

        Raises:
            TrainingError: it could not be written.
        """
        pending = self._pending
        if pending is None:
            return
        if not wait and not all(gathered(self._processes, not pending.is_writing)):
            return
        self._pending = None
        pending.join()
        everyones = gathered(self._processes, (pending.name, pending.seal, pending.error))
        errors = [error for _, _, error in everyones]
        seals = {name: seal for name, seal, _ in everyones if seal}
        failed = next((error for error in errors if error), None)
        on_main(self._processes, lambda: pending.end(seals, failed))
        raise_in_all(errors, self._processes.process_index)
        if self._processes.is_main_process:
            for old in find_checkpoints(self._folder)[: -self._keep]:
                with contextlib.suppress(OSError):
                    shutil.rmtree(old.path)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.settle()
        elif self._pending is not None:
            # The others may have ended: nothing is asked of them.
            self._pending.join()
            if self._processes.is_main_process:
                self._pending.abandon()


class _Pending:
    """A checkpoint on its way to the disk."""

    def __init__(self, folder: Path, stage: str, step: int, facts: dict[str, Any]) -> None:
        self.stage, self.step, self.facts = stage, step, facts
        self.folder = folder
        self.final = folder / f"{stage}-{step:07d}"
        self.partial = Path()
        self.name, self.seal = "", ""
        self.error: TrainingError | None = None
        self._thread: threading.Thread | None = None
        self._stack = contextlib.ExitStack()

    def begin(self) -> Path:
        """Make the folder that all write into; of the main process."""
        try:
            self.folder.mkdir(exist_ok=True)
            clear_leftovers(self.folder)
            return self._stack.enter_context(write_folder_atomically(self.final))
        except OSError as error:
            raise self._not_written(error) from error

    def write(self, parts: Mapping[str, Part], name: str) -> None:
        """Write this process's parts; what goes wrong is kept for all to know."""
        self.name = name
        self.error = self._not_written(WeightsError("the process that writes it did not end"))
        try:
            self.seal = write_parts(parts, self.partial / name)
            self.error = None
        except ValueError as error:
            self.error = TrainingError(
                f"{error}: no checkpoint is written",
                where=f"{self.stage}, step {self.step}",
                remedy="Start again in another output with a lower learning rate, or "
                "precision=fp32",
                kind="not_finite",
            )
        except (OSError, WeightsError) as error:
            self.error = self._not_written(error)

    def start(self, parts: Mapping[str, Part], name: str) -> None:
        """Write in a thread of its own."""
        self._thread = threading.Thread(target=self.write, args=(parts, name), name="checkpoint")
        self._thread.start()

    @property
    def is_writing(self) -> bool:
        """Whether this process is not done yet."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Wait until this process has written."""
        if self._thread is not None:
            self._thread.join()

    def end(self, seals: dict[str, str], failed: TrainingError | None) -> None:
        """Put the folder in its place, or take it away where a process failed."""
        if failed is not None:
            self.abandon()
            return
        state = {"stage": self.stage, "step": self.step, "facts": self.facts, "seals": seals}
        try:
            with self._stack:
                write_sealed(self.partial / _STATE, state)
        except OSError as error:
            raise self._not_written(error) from error

    def abandon(self) -> None:
        """Take the unfinished folder away."""
        with contextlib.suppress(LlavaRadError), self._stack:
            raise LlavaRadError("not written")

    def _not_written(self, error: OSError | WeightsError) -> TrainingError:
        return TrainingError(
            f"the checkpoint of step {self.step} cannot be written ({_reason(error)})",
            where=self.folder,
            remedy=f"Free space, or correct the rights; {resume_hint(self.folder)}",
            kind="checkpoint_not_written",
        )


def _copied(part: Part) -> Part:
    """The part with its values as they are now, in the host's memory where this process writes."""
    value = part.value()
    if not part.own:
        return part._replace(value=lambda: value)
    copy = value.to("cpu", copy=True).contiguous()
    return part._replace(value=lambda: copy)


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
    processes: Processes,
    *,
    allowed: bool = True,
    say: Callable[[str], object] = print,
) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None for a fresh start.

    Every process has to call this: they share the reading. A damaged one is told of and put aside
    under ``NAME.damaged``.

    Args:
        folder: of all checkpoints.
        settings: those that decide the weights; a checkpoint of others is refused.
        manifests: hashes by name; other contents are refused too.
        processes: of the run.
        allowed: whether to resume at all.
        say: is given what a person should know, in the main process.

    Raises:
        TrainingError: there are checkpoints, and the run may not or cannot be resumed from them.
    """
    found = on_main(processes, lambda: find_checkpoints(folder))
    if not found:
        return None
    if not allowed:
        error = TrainingError(
            "the folder holds checkpoints of an earlier run",
            where=folder,
            remedy="Give another output, or resume=auto",
            kind="output_taken",
        )
        raise error if processes.is_main_process else told_by_another(error)
    damaged: list[tuple[Checkpoint, TrainingError]] = []
    for checkpoint in reversed(found):
        trouble = _trouble(checkpoint, settings, manifests, processes)
        if trouble is not None:
            damaged.append((checkpoint, trouble))
            continue
        on_main(processes, lambda: _put_aside(damaged, say))
        return checkpoint
    error = TrainingError(
        f"no checkpoint of the run can be read: {damaged[0][0].path.name} {damaged[0][1].what}",
        where=folder,
        remedy="Give another output, or delete this folder to start from the beginning",
        kind="damaged_checkpoint",
    )
    raise error if processes.is_main_process else told_by_another(error)


def _trouble(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    manifests: Mapping[str, str],
    processes: Processes,
) -> TrainingError | None:
    """What is damaged of a checkpoint, the same in every process; None if nothing is."""
    found = on_main(
        processes, lambda: _damage_of(lambda: _compare(checkpoint, settings, manifests))
    )
    if found is not None:
        return found
    everyones = gathered(processes, _damage_of(lambda: checkpoint.check(processes)))
    return next((error for error in everyones if error), None)


def _damage_of(work: Callable[[], object]) -> TrainingError | None:
    try:
        work()
    except TrainingError as error:
        if error.kind != "damaged_checkpoint":
            raise
        return error
    return None


def _put_aside(
    damaged: list[tuple[Checkpoint, TrainingError]], say: Callable[[str], object]
) -> None:
    for bad, why in damaged:
        aside = bad.path.with_name(f"{bad.path.name}.damaged")
        say(f"WARNING: {bad.path.name} {why.what}; it is kept as {aside.name}")
        with contextlib.suppress(OSError):
            shutil.rmtree(aside, ignore_errors=True)
            bad.path.rename(aside)


def _compare(
    checkpoint: Checkpoint, settings: Mapping[str, Any], manifests: Mapping[str, str]
) -> None:
    facts = checkpoint.facts()
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
            where=checkpoint.path.parent.parent,
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
