"""What is tried: a kind of input, and one input of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

#: An input: the files of one folder by their names in it.
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of input and the public reader that it goes through.

    Attributes:
        name: on the command line and in the table.
        seeds: makes whole inputs by name; called in a process of its own.
        mutate: damages one of them. It calls no library that reads files.
        read: reads the folder of an input and raises AssertionError where what comes out is not
            what the reader promises. The random numbers choose among the reader's options.
        ready: imports what ``read`` needs, before processes are forked.
        whole: whether the reader takes the seeds as they are.
    """

    name: str
    seeds: Callable[[], dict[str, Files]]
    mutate: Callable[[Files, Random], Files]
    read: Callable[[Path, Random], object]
    ready: Callable[[], object] = lambda: None
    whole: bool = True


class FirstChoice(Random):
    """Chooses the reader's first option each time, the usual one."""

    def random(self) -> float:
        return 0.999

    def choice(self, seq: Any) -> Any:
        return seq[0]


def write_input(files: Files, folder: Path) -> None:
    """Write an input into a folder that is new."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def only_file(folder: Path) -> Path:
    """The file of an input that is one file."""
    (file,) = (path for path in folder.iterdir() if path.is_file())
    return file
