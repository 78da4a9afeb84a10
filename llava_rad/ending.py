"""How programs end: one line for people and the right exit code, never a traceback.

Exit codes: 0 all done, 1 an input or the system failed, 2 wrong usage, 130 stopped by SIGINT, 143
stopped by SIGTERM.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from llava_rad.errors import LlavaRadError
from llava_rad.extras import missing_extra, require

#: Said of programs that keep what they have done; others must say less.
GOES_ON = "what was written stays, the same command goes on from there"


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt no error; libraries that catch that let this through."""


def leave_quietly() -> None:
    """From here on SIGINT and SIGTERM end the process at once and without a word.

    For the beginning of a program, whose imports take seconds and leave nothing to tell. Where
    somebody has a plan for a signal already, it stays.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a block as SIGINT does; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt, before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if interrupt is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if before not in (signal.SIG_DFL, _leave):
        yield  # somebody above has a better plan
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if interrupt is not None:  # None: not set from Python
            signal.signal(signal.SIGINT, interrupt)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


@contextlib.contextmanager
def plain_ending(
    say: Callable[[str], None],
    stopped: str | Callable[[], str] = "",
    *,
    quiet: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """End the process as people expect, whatever went wrong in the block.

    Args:
        say: prints a line to standard error.
        stopped: what has become of the work when a signal stops it, such as :data:`GOES_ON`.
        quiet: whether another process says it all.

    Raises:
        SystemExit: with the code, where the block does not end well.
    """
    try:
        with terminable():
            yield
    except LlavaRadError as error:
        if not (error.told or quiet()):
            say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        if not quiet():
            say(f"error: {missing}")
        raise SystemExit(missing.exit_code) from None
    except (KeyboardInterrupt, Terminated) as error:
        text = stopped if isinstance(stopped, str) else stopped()
        if not quiet():
            say("stopped" + (f"; {text}" if text else ""))
        raise SystemExit(143 if isinstance(error, Terminated) else 130) from None
    except BrokenPipeError:
        # The reader of stdout has gone; nothing more can be said to it.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if not quiet():
            say(
                f"error: {where}{error.strerror or error}. Check the disk's free space and the "
                "rights of files and folders."
            )
        raise SystemExit(1) from None


@contextlib.contextmanager
def program_ending(stopped: str = "", extra: str = "eval") -> Iterator[None]:
    """:func:`plain_ending` of a program that a launcher may start several times.

    Args:
        stopped: what has become of the work when a signal stops it.
        extra: that the program needs; looked for now, not after hours of work.
    """
    with plain_ending(_print, stopped, quiet=lambda: not is_first_process()):
        require(extra, "this program")
        yield


def _print(text: str) -> None:
    print(" ".join(text.splitlines()), file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether no launcher started this process beside a first one, which does the talking."""
    return os.environ.get("RANK", "0") in ("", "0")


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all its processes, from those started here.

    They end with the one that started them. What is blocked stays so in a new process.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
