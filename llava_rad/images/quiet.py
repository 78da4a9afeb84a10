"""Keeping the remarks of pydicom and Pillow about odd files from the user's terminal."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIBRARIES = r"(pydicom|PIL|pylibjpeg|libjpeg|openjpeg|jpeg_ls)\b"

_lock = threading.Lock()
_filters: list[warnings.catch_warnings] = []
_readers = 0


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Ignore Python warnings that come from the image libraries.

    What matters for the picture is checked by this package and becomes a warning of the
    radiograph. Python's warning filters belong to the whole process, so with several threads the
    first reader sets them and the last one restores them.
    """
    global _readers
    with _lock:
        if not _readers:
            _filters.append(warnings.catch_warnings())
            _filters[-1].__enter__()
            warnings.filterwarnings("ignore", module=_LIBRARIES)
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                _filters.pop().__exit__(None, None, None)
