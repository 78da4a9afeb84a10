"""A forked process that reads one input after the other, so that none can end the run.

Limits: ``SECONDS`` of processor time (of the wall clock, ``WAIT`` times as many: other programs
may hold the processor) and ``MEBIBYTES`` of memory above what the process held before. The kernel
enforces the first, and an allocation of twice the second fails.
"""

import contextlib
import faulthandler
import json
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import FirstChoice

SECONDS = 10.0
MEBIBYTES = 2048.0
WAIT = 12
# A message for people: one line that a terminal shows and a log holds.
MESSAGE_LENGTH = 2000
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        status: ``loaded``, ``refused`` (by an error of this project), or a fault: ``uncaught``,
            ``crashed``, ``slow``, ``hung``, ``memory``, or ``message`` for an error that people
            cannot read.
        detail: the error's kind, the exception's name or the signal.
        place: where in the code an exception came from.
        text: the error's message or the traceback.
        seconds: of processor time.
        mebibytes: the highest memory above what the process held before.
    """

    status: str
    detail: str = ""
    place: str = ""
    text: str = ""
    seconds: float = 0.0
    mebibytes: float = 0.0

    @property
    def fault(self) -> bool:
        """Whether the project promises better."""
        return self.status not in ("loaded", "refused")

    @property
    def signature(self) -> str:
        """Equal for faults that look like one and the same."""
        return " ".join(part for part in (self.status, self.detail, self.place) if part)


class Worker:
    """Reads inputs in a forked process, which is forked again when it dies."""

    def __init__(self, read: Callable[[Path, Random], object]) -> None:
        self._read = read
        self._pid = 0

    def run(self, folder: Path, seed: str) -> Outcome:
        """Read the input in a folder; without a seed, by the reader's usual options."""
        if not self._pid:
            self._start()
        self._requests.write(json.dumps([str(folder), seed]) + "\n")
        self._requests.flush()
        line = ""
        if select.select([self._replies], [], [], SECONDS * WAIT)[0]:
            line = self._replies.readline()
            if line:
                return Outcome(**json.loads(line))
            return self._death(*self._end())
        os.kill(self._pid, signal.SIGKILL)
        self._end()
        return Outcome("hung", seconds=SECONDS * WAIT)

    def close(self) -> None:
        """End the process."""
        if self._pid:
            self._requests.close()
            self._end()

    def _start(self) -> None:
        for_requests, requests = os.pipe()
        replies, for_replies = os.pipe()
        self._stack = os.memfd_create("stack")
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os.close(requests)
            os.close(replies)
            with contextlib.suppress(BaseException):
                _serve(self._read, for_requests, for_replies, self._stack)
            os._exit(1)
        os.close(for_requests)
        os.close(for_replies)
        self._pid = pid
        self._requests = os.fdopen(requests, "w", encoding="utf-8")
        self._replies = os.fdopen(replies, "r", encoding="utf-8")

    def _end(self) -> tuple[int, str]:
        """Wait for the process, which ends or is killed; its status and the stack it left."""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        with contextlib.suppress(OSError):
            self._requests.close()
        self._replies.close()
        os.lseek(self._stack, 0, os.SEEK_SET)
        stack = os.read(self._stack, 20_000).decode("utf-8", "replace")
        os.close(self._stack)
        return status, stack

    @staticmethod
    def _death(status: int, stack: str) -> Outcome:
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            if name == "SIGXCPU":
                return Outcome("slow", place=_frame_of_dump(stack), text=stack, seconds=SECONDS)
            return Outcome("crashed", name, _frame_of_dump(stack), stack)
        return Outcome("crashed", f"exit code {os.waitstatus_to_exitcode(status)}", text=stack)


def in_a_fork(call: Callable[[], Any]) -> Any:
    """What a call returns, computed in a process of its own."""
    receiving, sending = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(receiving)
            _keep_quiet(leave_stderr=True)
            with os.fdopen(sending, "wb") as file:
                pickle.dump(call(), file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(sending)
    with os.fdopen(receiving, "rb") as file:
        content = file.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{call} failed in its process")
    return pickle.loads(content)


def _serve(read: Callable[[Path, Random], object], requests: int, replies: int, stack: int) -> None:
    _keep_quiet()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGXCPU, stack, chain=True)
    with os.fdopen(requests, encoding="utf-8") as lines, os.fdopen(replies, "w") as answers:
        for line in lines:
            folder, seed = json.loads(line)
            answers.write(json.dumps(asdict(_measured(read, Path(folder), seed))) + "\n")
            answers.flush()


def _keep_quiet(leave_stderr: bool = False) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1) if leave_stderr else (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _measured(read: Callable[[Path, Random], object], folder: Path, seed: str) -> Outcome:
    os.chdir(folder)
    before = _reset_peak()
    _limit(resource.RLIMIT_CPU, int(time.process_time() + SECONDS + 2))
    _limit(resource.RLIMIT_AS, int(_memory("VmSize") + 2 * MEBIBYTES) * _MEBIBYTE)
    start = time.process_time()
    outcome = _outcome(read, folder, seed)
    seconds = time.process_time() - start
    peak = _memory("VmHWM") - before
    for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        _limit(which, resource.RLIM_INFINITY)
    values = {**asdict(outcome), "seconds": seconds, "mebibytes": peak}
    if not outcome.fault and peak > MEBIBYTES:
        values |= {"status": "memory"}
    elif not outcome.fault and seconds > SECONDS:
        values |= {"status": "slow"}
    return Outcome(**values)


def _outcome(read: Callable[[Path, Random], object], folder: Path, seed: str) -> Outcome:
    from llava_rad.errors import LlavaRadError

    try:
        read(folder, Random(seed) if seed else FirstChoice())
    except LlavaRadError as error:
        detail = error.kind or type(error).__name__
        reason = _unreadable(error)
        text = str(error).encode("utf-8", "backslashreplace").decode()[:20_000]
        if reason:
            return Outcome("message", f"{detail}: {reason}", _place(error), text)
        return Outcome("refused", detail, text=text)
    except BaseException as error:
        lines = "".join(traceback.format_exception(error, limit=-12, chain=False))
        text = lines.encode("utf-8", "backslashreplace").decode()
        return Outcome("uncaught", type(error).__name__, _place(error), text[-20_000:])
    return Outcome("loaded")


def _unreadable(error: Exception) -> str:
    """Why people or other processes cannot take this error, or nothing."""
    text = str(error)
    if len(text) > MESSAGE_LENGTH:
        return "long"
    if any(not character.isprintable() for character in text):
        return "not one printable line"
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        return "cannot be sent to another process"
    return "" if str(again) == text else "another after being sent"


def _place(error: BaseException) -> str:
    """The last frame in the project, or in the tests where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}llava_rad{os.sep}" in frame.filename]
    if not frames:
        return ""
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _frame_of_dump(stack: str) -> str:
    """The first frame in the project of what faulthandler wrote."""
    for line in stack.splitlines():
        if f"{os.sep}llava_rad{os.sep}" in line:
            name, _, rest = line.strip().removeprefix("File ").partition(", line ")
            return f"{Path(name.strip(chr(34))).name}:{rest.split(' ')[0]}"
    return ""


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY and value > hard:
        value = hard
    resource.setrlimit(which, (value, hard))


def _memory(name: str) -> float:
    """A line of the process's status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def _reset_peak() -> float:
    """Begin to measure the peak anew; returns the memory held now, in MiB."""
    # Where this is not allowed the peak is the highest since the process began.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")
