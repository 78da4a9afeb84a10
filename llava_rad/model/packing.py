"""Rows that hold one sequence each, said so that no device is asked.

Where there is neither a mask nor a cache, transformers looks for several sequences packed in a row:
it computes on the position ids and reads the answer back, at every forward pass. On a GPU the host
then waits until all earlier work is done.
"""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from transformers import masking_utils

_SEARCH = "find_packed_sequence_indices"
_ONE_EACH: ContextVar[bool] = ContextVar("one_sequence_a_row", default=False)


@contextlib.contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Skip transformers' search for packed sequences in this thread."""
    _install()
    token = _ONE_EACH.set(True)
    try:
        yield
    finally:
        _ONE_EACH.reset(token)


@functools.cache
def _install() -> None:
    """Let the search heed the above; everybody else gets what they got before."""
    search = getattr(masking_utils, _SEARCH, None)
    if search is None:  # a version that does not search
        return

    @functools.wraps(search)
    def heeding(*args: Any, **kwargs: Any) -> Any:
        return None if _ONE_EACH.get() else search(*args, **kwargs)

    setattr(masking_utils, _SEARCH, heeding)
