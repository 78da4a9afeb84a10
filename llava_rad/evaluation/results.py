"""A folder of results: whose it is, and which of its files are results."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llava_rad.errors import LlavaRadError
from llava_rad.outputs import has_keys, own_folder, refuse_foreign, refuse_inputs, starts_with

#: How each result is known, by its name.
_KNOWN: dict[str, Callable[[Path], bool]] = {
    "metrics.json": lambda path: has_keys(path, "metrics", "intervals"),
    "per_sample.jsonl": lambda path: has_keys(path, "id", "prediction", "values", lines=True),
    "report.html": lambda path: starts_with(path, "<title>Findings report"),
    "predictions.jsonl": lambda path: has_keys(path, "id", "prediction", "reference", lines=True),
    "reports.jsonl": lambda path: has_keys(path, "study_id", "run", lines=True),
    "image_control.json": lambda path: has_keys(path, "verdict", "controls"),
    "image_control.jsonl": lambda path: has_keys(path, "id", "other_patient", lines=True),
    "image_control.md": lambda path: starts_with(path, "## Does the text depend on the image?"),
}
SCORES = ("metrics.json", "per_sample.jsonl", "report.html")
GENERATED = ("reports.jsonl", "predictions.jsonl")
CONTROL = ("image_control.json", "image_control.jsonl", "image_control.md")


@contextlib.contextmanager
def own_results(
    folder: Path,
    names: Iterable[str],
    inputs: Iterable[str | Path],
    *,
    what: str,
    overwrite: bool = False,
) -> Iterator[None]:
    """Hold a folder of results against other runs.

    Args:
        folder: made if absent.
        names: of the results that will be written there.
        inputs: files that are read.
        what: such a run is called, in messages.
        overwrite: let strangers' files of these names be replaced.

    Raises:
        DataError: a result would replace an input or a stranger's file, another run writes there,
            or nothing can be written there.
    """
    inputs = list(inputs)
    for name in names:
        refuse_inputs(folder / name, inputs)
        refuse_foreign(folder / name, _KNOWN[name], "result of this program", overwrite=overwrite)
    with own_folder(folder, what):
        yield


@contextlib.contextmanager
def own_shared_results(
    folder: Path,
    names: Iterable[str],
    inputs: Iterable[str | Path],
    *,
    what: str,
    overwrite: bool = False,
) -> Iterator[None]:
    """As :func:`own_results`, for a run of several processes, which call this together."""
    from accelerate.utils import broadcast_object_list

    from llava_rad.processes import process_state

    answer: list[Any] = [None]
    with contextlib.ExitStack() as stack:
        if process_state().is_main_process:
            try:
                stack.enter_context(
                    own_results(folder, names, inputs, what=what, overwrite=overwrite)
                )
            except LlavaRadError as error:
                answer[0] = error
        broadcast_object_list(answer)
        if answer[0] is not None:
            raise answer[0]
        yield
