"""What one process of a run finds out, all know; where one fails, all stop with its message.

Without this the others would wait in their next collective operation until it times out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from llava_rad.errors import LlavaRadError, TrainingError
from llava_rad.files import clear_leftovers
from llava_rad.locks import FolderLock

Result = TypeVar("Result")


class Processes(Protocol):
    """The processes of a run: an Accelerator or its state."""

    @property
    def is_main_process(self) -> bool:
        """Whether this one does what only one does."""

    @property
    def num_processes(self) -> int:
        """How many there are."""

    @property
    def process_index(self) -> int:
        """Which this is, from 0."""


def on_main(processes: Processes, work: Callable[[], Result]) -> Result:
    """Do something in the main process and give its result to all, or its error.

    Every process has to call this.

    Args:
        processes: of the run.
        work: its result can be pickled.

    Raises:
        LlavaRadError: what ``work`` raised, in every process; what the disk refuses as
            :func:`disk_error` puts it.
    """
    found: list[Any] = [None, None]
    if processes.is_main_process:
        found = list(_tried(work))
    if processes.num_processes > 1:
        broadcast_object_list(found)
    result, error = found
    if error is not None:
        raise error if processes.is_main_process else told_by_another(error)
    return result


def in_all(processes: Processes, work: Callable[[], Result]) -> Result:
    """Do something in every process; where any of them fails, all raise the first one's error.

    Every process has to call this.

    Raises:
        LlavaRadError: what ``work`` raised in some process.
    """
    result, error = _tried(work)
    raise_in_all(gathered(processes, error), processes.process_index)
    return result


def gathered(processes: Processes, value: Result) -> list[Result]:
    """What each process has, in the order of the processes.

    Every process has to call this.
    """
    if processes.num_processes == 1:
        return [value]
    found: list[Result] = gather_object([value])
    return found


def raise_in_all(errors: Sequence[LlavaRadError | None], rank: int) -> None:
    """Raise the first error of all processes, marked where another process tells it.

    Args:
        errors: one of each process, or None.
        rank: of this process.
    """
    for number, error in enumerate(errors):
        if error is not None:
            raise error if number == rank else told_by_another(error)


def told_by_another(error: LlavaRadError) -> LlavaRadError:
    """The error, marked so that its message is not printed once more."""
    error.told = True
    return error


def disk_error(error: Exception) -> TrainingError | None:
    """What the disk refused, in words; None for an error of another kind.

    safetensors and torch have no exceptions of their own for it.
    """
    text, where = str(error), None
    if isinstance(error, OSError):
        text, where = error.strerror or text, error.filename
    elif isinstance(error, SafetensorError):
        if "I/O error" not in text:
            return None
    elif not isinstance(error, RuntimeError) or "PytorchStreamWriter" not in text:
        return None
    return TrainingError(
        f"the disk refuses ({text.splitlines()[0]})",
        where=where,
        remedy="Check its free space and rights, and that the folder is still there",
        kind="disk",
    )


def _tried(work: Callable[[], Result]) -> tuple[Any, LlavaRadError | None]:
    try:
        return work(), None
    except LlavaRadError as error:
        return None, error
    except (OSError, SafetensorError, RuntimeError) as error:
        refused = disk_error(error)
        if refused is None:
            raise
        return None, refused


@contextmanager
def owned_folder(folder: Path, accelerator: Accelerator) -> Iterator[FolderLock]:
    """Hold a run's folder with all its processes, until the last of them has ended.

    Every process has to call this. The main process keeps other runs out; the others hold places
    of their own, so that a run whose main process was killed is not over while they live.

    Raises:
        DataError: another run writes there, or nothing can be written.
    """
    own = FolderLock(folder, place=accelerator.process_index)
    on_main(accelerator, lambda: _acquire(own, folder))
    if not accelerator.is_main_process:
        own.acquire()
    try:
        yield own
    finally:
        own.release()


def _acquire(lock: FolderLock, folder: Path) -> None:
    lock.acquire()
    clear_leftovers(folder)  # of a run that was killed
