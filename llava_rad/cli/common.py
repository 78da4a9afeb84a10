"""What commands share: their options' kinds, errors in one line, devices, output and progress."""

import contextlib
import enum
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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
def user_errors() -> Iterator[None]:
    """Print errors meant for the user in one line; wrong usage exits with 2, the rest with 1."""
    from llava_rad.errors import ConfigError, LlavaRadError

    try:
        yield
    except LlavaRadError as error:
        say(f"error: {error}")
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt:
        say("stopped; what was written stays, the same command goes on from there")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of stdout has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


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


def open_text(path: Path) -> Any:
    """Open a text file to write, its folder made. Raises ConfigError."""
    from llava_rad.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write ({error.strerror})", where=path, remedy="Choose another --output"
        ) from error


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
