"""Items of a data set, read ahead by worker processes in a given order."""

import multiprocessing
from collections.abc import Generator, Sequence
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from llava_rad.errors import LlavaRadError
from llava_rad.runs.stopping import calm_worker

Item = TypeVar("Item")


def read_ahead(
    data: Dataset[Item], numbers: Sequence[int], workers: int, *, pin: bool = False
) -> Generator[Item]:
    """The items of these numbers, one after the other.

    Args:
        data: an item is a pure function of its number.
        numbers: of the items.
        workers: processes that read ahead; 0 reads in this one, as does a process that may start
            none (a daemon).
        pin: put them where a GPU can fetch them without the host waiting.

    Raises:
        LlavaRadError: what an item raised, when its turn comes.
    """
    if multiprocessing.current_process().daemon:
        workers = 0
    loader = DataLoader(
        _Caught(data),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=calm_worker if workers else None,
        pin_memory=pin,
    )
    for item in loader:
        if isinstance(item, LlavaRadError):
            raise item
        yield item


class _Caught(Dataset[Item | LlavaRadError]):
    """Gives errors as items: a worker process would bury their message in its traceback."""

    def __init__(self, data: Dataset[Item]) -> None:
        self.data = data

    def __getitem__(self, number: int) -> Item | LlavaRadError:
        try:
            return self.data[number]
        except LlavaRadError as error:
            return error
