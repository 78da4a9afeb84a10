"""Keeping the remarks of pydicom and Pillow about odd files from the user's terminal and logs.

They quote values of the header, and so may name the patient.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGES = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls", "imagecodecs", "PIL")
# The libraries point a warning at their caller, which may be this package.
_MODULES = rf"({'|'.join(_PACKAGES)}|llava_rad\.images)\b"

_lock = threading.Lock()
_filters: list[warnings.catch_warnings] = []
_readers = 0
_reading = threading.local()


class _WhileReading(logging.Filter):
    """Drops what is logged by a thread that is reading a picture."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_reading, "depth", 0)


_while_reading = _WhileReading()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Ignore Python warnings and log records that come from the image libraries.

    What matters for the picture is checked by this package and becomes a warning of the
    radiograph. Python's warning filters belong to the whole process, so with several threads the
    first reader sets them and the last one restores them; log records are dropped of the reading
    threads only.
    """
    global _readers
    with _lock:
        if not _readers:
            _filters.append(warnings.catch_warnings())
            _filters[-1].__enter__()
            warnings.filterwarnings("ignore", category=UserWarning, module=_MODULES)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=_MODULES)
            _filter_loggers()
        _readers += 1
    _reading.depth = getattr(_reading, "depth", 0) + 1
    try:
        yield
    finally:
        _reading.depth -= 1
        with _lock:
            _readers -= 1
            if not _readers:
                _filters.pop().__exit__(None, None, None)


def _filter_loggers() -> None:
    """Filter the libraries' loggers, those too that were made since the last time."""
    for name in [*logging.root.manager.loggerDict, *_PACKAGES]:
        if name.split(".")[0] in _PACKAGES:
            logging.getLogger(name).addFilter(_while_reading)  # adds it once
