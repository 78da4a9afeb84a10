"""Real processes, forked from one that has imported everything, and what became of them."""

import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One line of the table: what was done, to which program, how often, how often all was well."""

    what: str
    case: str
    tried: int = 0
    held: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, trouble: str) -> None:
        """One more try; an empty text says that all was well."""
        self.tried += 1
        self.held += not trouble
        if trouble and len(self.notes) < 3:
            self.notes.append(trouble)


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its code (128 + signal if killed), texts, and peak memory in MB."""

    code: int
    out: str
    err: str
    peak: float

    def trouble(self, *codes: int, said: str = "", lines: bool = True) -> str:
        """What is wrong with it, empty if nothing is.

        Args:
            codes: that are right.
            said: is to be in what it says.
            lines: a failure has to be told in a line that begins with ``error:``.
        """
        if "Traceback" in self.err:
            return f"traceback: {self.err.strip().splitlines()[-1]}"
        if self.code not in codes:
            return f"exit {self.code}: {self.err.strip()[-160:]}"
        if said not in self.err:
            return f"not said: {said!r}: {self.err.strip()[-160:]}"
        told = any(line.startswith("error: ") for line in self.err.splitlines())
        return "no line says why" if lines and self.code in (1, 2) and not told else ""


class Process:
    """A command, or a function without arguments, in a fork of this process.

    Args:
        work: words of a ``llava-rad`` command, or what is to be done.
        folder: for what it prints.
        prepare: is called in the new process first.
    """

    def __init__(
        self,
        work: Sequence[Any] | Callable[[], object],
        folder: Path,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._texts = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                for number, text in enumerate(self._texts, 1):
                    os.dup2(os.open(text, os.O_CREAT | os.O_WRONLY, 0o600), number)
                # A process started from here in the background would ignore it.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                prepare()
                code = _run(work)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end."""
        _, status, used = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        out, err = (text.read_text(errors="replace") for text in self._texts)
        for text in self._texts:
            text.unlink()
        return Ended(code if code >= 0 else 128 - code, out, err, used.ru_maxrss / 1000)


def _run(work: Sequence[Any] | Callable[[], object]) -> int:
    from llava_rad.cli import main as command
    from llava_rad.cli.common import user_errors

    try:
        if callable(work):
            with user_errors():
                work()
        else:
            command([str(word) for word in work])
    except SystemExit as ended:
        return int(ended.code or 0) if not isinstance(ended.code, str) else 1
    except BaseException:  # what a real process would print
        import traceback

        traceback.print_exc()
        return 1
    return 0


def small_files(size: int) -> Callable[[], None]:
    """For ``prepare``: no file may grow over so many bytes, as on a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def warm_up() -> None:
    """Import what the programs need, but compute nothing: threads do not survive a fork."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in (
        "accelerate",
        "llava_rad.cli.app",
        "llava_rad.dinov2.student_teacher",
        "llava_rad.encoding",
        "llava_rad.evaluation.controls",
        "llava_rad.interchange.conversion",
        "llava_rad.probing",
        "llava_rad.report_training.building",
        "llava_rad.reports.study",
        "matplotlib.figure",
        "nltk",
        "peft",
        "pydicom",
        "sklearn.feature_extraction.text",
        "sklearn.linear_model",
        "torch.utils.tensorboard",
        "transformers.models.dinov2.modeling_dinov2",
        "transformers.models.llama.modeling_llama",
    ):
        importlib.import_module(name)
