"""What commands share: errors in one line, output and progress."""

import contextlib
import gc
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rad.data import ConversionLog


@contextlib.contextmanager
def user_errors(stopped: str | Callable[[], str] = "") -> Iterator[None]:
    """Print errors meant for the user in one line; wrong usage exits with 2, the rest with 1.

    Args:
        stopped: what has become of the work when a signal stops it; see ``plain_ending``.
    """
    from llava_rad.ending import plain_ending

    with plain_ending(say, stopped):
        yield


@contextlib.contextmanager
def starting_up() -> Iterator[Callable[[], None]]:
    """Leave Python's collector of garbage off while modules are imported and weights are loaded.

    Thousands of modules make none, and looking for it takes a twentieth of that time. What is given
    is called when the work begins.
    """
    was_on = gc.isenabled()
    gc.disable()

    def started() -> None:
        if was_on:
            gc.enable()

    try:
        yield started
    finally:
        started()


def say(text: str) -> None:
    """Print a message to stderr, on one line whatever the names in it."""
    from rich.console import Console

    from llava_rad.names import one_line

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(one_line(text))


def say_once(text: str) -> None:
    """Print a message to stderr, in the first process of a run alone."""
    from llava_rad.ending import is_first_process

    if is_first_process():
        say(text)


def say_precision(dtype: str, precision: str, device: str) -> None:
    """Say that a CPU computes in a short format where nobody asked for it.

    Args:
        dtype: that was asked for.
        precision: of the model's weights, in words.
        device: that was asked for.
    """
    if dtype == "auto" and "bfloat16" in precision and device in ("auto", "cpu"):
        from llava_rad.devices import pick_device

        if pick_device(device).type == "cpu":
            say("bfloat16, in which this CPU is fast; for full precision: --dtype float32")


def say_left_out(log: "ConversionLog") -> None:
    """Say which files were passed over, and what was noted of studies."""
    for line in log.summary():
        say(line)


def write_out(text: str) -> None:
    """Print results to stdout; what a terminal cannot show is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def write_json(values: Any) -> None:
    """Print JSON on one line to stdout, in ASCII where stdout is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    write_out(json.dumps(values, ensure_ascii=encoding != "utf8"))


class _Lines:
    """Progress where there is no terminal: a line each tenth of the work."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0

    def advance(self) -> None:
        """One more piece is done."""
        before, self.done = self.done, self.done + 1
        if 10 * self.done // self.total > 10 * before // self.total:
            say(f"{self.title}: {self.done} of {self.total}")


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show what is being waited for, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Any]:
    """Show a bar on a terminal, else ten lines; what is given is called once a piece of work."""
    if total < 2:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield _Lines(title, total).advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
