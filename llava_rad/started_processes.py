"""Processes that one process starts and talks to, which end with it."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, Self

from llava_rad.ending import interrupts_held
from llava_rad.errors import LlavaRadError

_PATIENCE_SECONDS = 5.0


class StartedProcesses:
    """Processes with a pipe to each; for use in a ``with`` block, with which they end.

    Args:
        target: what each does; its first argument is its end of the pipe. It says first that it is
            ready, or sends the error why not.
        arguments: the others, for each process; all must be picklable.

    Attributes:
        ready: what each said first.

    Raises:
        LlavaRadError: what a process sent in place of its answer, or :meth:`ended`'s.
    """

    def __init__(self, target: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, Any] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            for own in arguments:
                here, there = context.Pipe()
                # daemon: the last resort, should this process not get to end them.
                process = context.Process(target=target, args=(there, *own), daemon=True)
                with interrupts_held():
                    process.start()
                there.close()  # so that the end of the process is the end of what it sends
                self._processes[here] = process
            self.ready = [self._receive(connection) for connection in self._processes]
            self._stack = stack.pop_all()

    def ended(self, number: int, code: int | None) -> LlavaRadError:
        """The error for a process that has ended by itself: its number from 1, its exit code."""
        raise NotImplementedError

    def _send(self, connection: Connection, value: object) -> None:
        try:
            connection.send(value)
        except OSError:
            raise self._ended(connection) from None

    def _receive(self, connection: Connection) -> Any:
        try:
            value = connection.recv()
        except (EOFError, OSError):
            raise self._ended(connection) from None
        if isinstance(value, Exception):
            raise value
        return value

    def _ended(self, connection: Connection) -> LlavaRadError:
        process = self._processes[connection]
        process.join(_PATIENCE_SECONDS)
        return self.ended([*self._processes].index(connection) + 1, process.exitcode)

    def _end(self) -> None:
        for connection, process in self._processes.items():
            connection.close()  # which ends those that wait for something
            process.terminate()
        for process in self._processes.values():
            process.join(_PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
