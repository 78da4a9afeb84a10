"""What commands share: their options' kinds, errors in one line, devices, output and progress."""

import contextlib
import enum
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Format(str, enum.Enum):
    """How results are printed."""

    text = "text"
    json = "json"


class Quantize(str, enum.Enum):
    """Bits of the LLM's weights."""

    four = "4bit"
    eight = "8bit"


class Precision(str, enum.Enum):
    """Number format of the weights."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@contextlib.contextmanager
def user_errors(stopped: str | Callable[[], str] = "") -> Iterator[None]:
    """Print errors meant for the user in one line; wrong usage exits with 2, the rest with 1.

    Args:
        stopped: what has become of the work when a signal stops it; see ``plain_ending``.
    """
    from llava_rad.ending import plain_ending

    with plain_ending(say, stopped):
        yield


def pick_device(name: str) -> str:
    """The device of this name; ``auto`` is a GPU if there is one. Raises ConfigError."""
    import torch

    from llava_rad.errors import ConfigError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"this device cannot be used ({str(error).splitlines()[0]})",
            where=f"--device {name}",
            remedy="See: llava-rad doctor",
        ) from error
    return name


def pick_dtype(precision: Precision, device: str) -> "torch.dtype":
    """The number format of this name; ``auto`` is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if precision is Precision.auto:
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return getattr(torch, precision.value)


def say(text: str) -> None:
    """Print a message to stderr."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def write_out(text: str, file: Any = None) -> None:
    """Print results to stdout or a file."""
    print(text, file=file or sys.stdout, flush=True)


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
    """Show a bar on a terminal; what is given is called once a piece of work."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
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
