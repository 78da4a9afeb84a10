"""How a run is stopped: by a signal, or because whoever started it is gone.

Outside the loop SIGINT and SIGTERM end a run at once. Within a :class:`StepBorder` they wait for
the border between two steps, where all processes learn of them together, so that a checkpoint can
be written first. A second signal some seconds later ends it at once all the same.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from llava_rad.errors import LlavaRadError
from llava_rad.files import process_is_alive
from llava_rad.runs.together import raise_in_all

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A terminal signals the launcher and its workers, and the launcher its workers again.
_SAME_REQUEST_SECONDS = 5.0
# For a worker whose launcher is gone: hanging in a collective, it would never end.
_GRACE_SECONDS = 300.0


class Interrupted(BaseException):
    """A signal ended the run; like KeyboardInterrupt no error, so no ``except Exception`` has it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM handled so; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def stop_at_once(number: int, _frame: FrameType | None = None) -> None:
    """Handle a signal where there is nothing to finish."""
    raise Interrupted(number)


class StepBorder:
    """Where the processes of a run meet between two steps.

    Args:
        accelerator: that all processes share; every process makes its own border.

    Attributes:
        signal: that some process had got when all last met; None while the run goes on.
        counts: sums over the processes of what each counted when all last met.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.signal: int | None = None
        self.counts: list[int] = []
        self._own = 0
        self._since = 0.0
        self._rank = accelerator.process_index
        self._processes = accelerator.num_processes
        # On the host, so that nobody waits for a device.
        self._group: Any = dist.new_group(backend="gloo") if self._processes > 1 else None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "StepBorder":
        self._own, self.signal = 0, None
        self._stack.enter_context(handling(self._note))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is None and self._own:
            raise Interrupted(self._own)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._own and now - self._since > _SAME_REQUEST_SECONDS:
            raise Interrupted(number)
        if not self._own:
            self._own, self._since = number, now
            if self._rank == 0:  # not print, which the signal may have come into the middle of
                name = signal.Signals(number).name
                os.write(2, f"{name}: finishing the step; once more stops at once\n".encode())

    def cross(
        self, work: Callable[[], Result], count: Callable[[Result], list[int]] | None = None
    ) -> Result:
        """Do something, such as fetching the next batch, and meet the other processes.

        Args:
            work: to do; every process does its own.
            count: numbers of the result, equally many in all processes; their sums over the
                processes are in :attr:`counts` afterwards.

        Returns:
            What ``work`` returned; see :attr:`signal` before going on.

        Raises:
            LlavaRadError: what ``work`` raised in any process, in all of them.
        """
        error: LlavaRadError | None = None
        result: Any = None
        counts: list[int] = []
        try:
            result = work()
            counts = count(result) if count else []
        except LlavaRadError as raised:
            error = raised
        number = self._own
        if self._processes > 1:
            number = self._meet(error, counts)
        elif error is not None:
            raise error
        else:
            self.counts = counts
        self.signal = number or None
        return result

    def _meet(self, error: LlavaRadError | None, counts: list[int]) -> int:
        """Exchange signals, errors and counts; the signal that some process has, or 0."""
        state = torch.tensor([self._own, int(error is not None)])
        dist.all_reduce(state, op=dist.ReduceOp.MAX, group=self._group)
        number, failed = state.tolist()
        if failed:
            errors: list[Any] = [None] * self._processes
            dist.all_gather_object(errors, error, group=self._group)
            raise_in_all(errors, self._rank)
        if counts:
            sums = torch.tensor(counts)
            dist.all_reduce(sums, group=self._group)
            counts = sums.tolist()
        self.counts = counts
        return number


def calm_worker(_number: int = 0) -> None:
    """Let a data loader's worker outlive signals to the whole group, as its run does.

    It ends with its run; after SIGTERM, at the latest in some minutes.
    """

    def end_later(_number: int, _frame: FrameType | None) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 60)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, end_later)


def stop_with_launcher() -> None:
    """End this process as by SIGTERM when the launcher that started it is gone.

    A process that a shell started is left alone: it may be meant to outlive it.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and hasattr(os, "getppid"):
        command = int(os.environ.get("LLAVA_RAD_LAUNCHER", "0"))  # llava-rad train, above it
        threading.Thread(target=_watch, args=(os.getppid(), command), daemon=True).start()


def _watch(launcher: int, command: int) -> None:
    while os.getppid() == launcher and (not command or process_is_alive(command)):
        time.sleep(1)
    print("the launcher is gone", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)
