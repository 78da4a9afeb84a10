"""Read what comes next in threads, while somebody works on what came before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_ahead(
    items: Iterable[_Item], read: Callable[[_Item], _Result], *, workers: int, ahead: int
) -> Generator[tuple[_Item, _Result], None, None]:
    """Give each item with what reading it gives, in order.

    Threads are enough: decoders of pictures work outside Python's lock. The items are taken in the
    caller's thread, never more than ``ahead`` before they are asked for; what goes wrong there is
    raised when all before it are given. Closing the iterator waits for the items that are being
    read and drops the others.

    Args:
        items: to read.
        read: called in a thread, or here where there are no workers; what it raises is raised when
            its item's turn comes.
        workers: threads.
        ahead: items that are read or waiting to be asked for.
    """
    if workers == 0:
        for item in items:
            yield item, read(item)
        return
    remaining = iter(items)
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    ended: Exception | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    try:
        while True:
            while ended is None and len(waiting) < ahead:
                try:
                    item = next(remaining)
                except Exception as error:  # StopIteration too
                    ended = error
                else:
                    waiting.append((item, pool.submit(read, item)))
            if not waiting:
                break
            item, future = waiting.popleft()
            yield item, future.result()
        if not isinstance(ended, StopIteration) and ended is not None:
            raise ended
    finally:
        pool.shutdown(cancel_futures=True)
