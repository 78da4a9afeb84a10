"""A folder as a stream: ``llava-rad watch``."""

import time
from collections.abc import Callable

from llava_rad.serve.arrivals import Arrivals
from llava_rad.serve.results import Results


def watch(
    arrivals: Arrivals, results: Results, *, pause: Callable[[float], None] = time.sleep
) -> None:
    """Report each study of a folder when it is complete, until a signal comes.

    Args:
        arrivals: of the folder.
        results: where reports go.
        pause: waits for some seconds between two looks.

    Raises:
        DataError: nothing can be written any more. What is done is in the journal, and the next
            start resumes.
    """
    while True:
        results.take(arrivals.look())
        pause(seconds_between_looks(arrivals.quiet))


def seconds_between_looks(quiet: float) -> float:
    """How often a folder is looked at: several times in its quiet time, and not all the time."""
    return min(2.0, max(0.1, quiet / 4))
