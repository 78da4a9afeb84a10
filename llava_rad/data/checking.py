"""Whether images can be read: all of them opened, before anything depends on them."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from llava_rad.data.study import Study
from llava_rad.errors import DataError, ImageError
from llava_rad.wording import counted

_CHUNK = 16  # images that a process is given at once


def check_images(
    paths: Iterable[str],
    *,
    rendering: str = "minmax",
    workers: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, ImageError]:
    """Open every image and read it to the end.

    Args:
        paths: image files; each is opened once.
        rendering: as they will be read (:func:`llava_rad.images.load_radiograph`).
        workers: processes that read; 0 reads in this one, None takes one a processor, but none
            for a few images.
        progress: is called after each image.

    Returns:
        The images that cannot be read, in the order of the paths, with the reason. A file on which
        a decoder takes its process down is among them (``kind`` is ``"decoder_crashed"``).
    """
    unique = list(dict.fromkeys(paths))
    if workers is None:
        workers = min(os.cpu_count() or 1, len(unique) // (2 * _CHUNK))
    failures: dict[str, ImageError] = {}
    for path, error in _check(unique, rendering, workers):
        if error is not None:
            failures[path] = error
        progress()
    return failures


def images_of(studies: Iterable[Study]) -> dict[str, str]:
    """Every image of studies and of their priors, with the id of the first study that has it."""
    found: dict[str, str] = {}
    for study in studies:
        for image in (*study.images, *(study.prior.images if study.prior else ())):
            found.setdefault(image.path, study.study_id)
    return found


def by_reason(failures: dict[str, ImageError]) -> list[tuple[str, int, str]]:
    """Reason, number of images, and the first of them; the most frequent reason first."""
    first: dict[str, str] = {}
    for path, error in failures.items():
        first.setdefault(error.kind, path)
    counts = Counter(error.kind for error in failures.values())
    return [(kind, count, first[kind]) for kind, count in counts.most_common()]


def settle_unreadable(
    reasons: Mapping[str, str], total: int, *, leave_out: bool, say: Callable[[str], object]
) -> None:
    """List all images of a run that cannot be read, and stop unless they are to be left out.

    Args:
        reasons: of each one, its path included.
        total: images of the run.
        leave_out: go on without them.
        say: is given each line.

    Raises:
        DataError: there is one and ``leave_out`` is not set; ``kind`` is ``"unreadable_images"``.
    """
    if not reasons:
        return
    for reason in reasons.values():
        say(f"cannot be read    {reason}")
    what = f"{len(reasons)} of {counted(total, 'image')} cannot be read"
    if not leave_out:
        raise DataError(
            f"{what}: {', '.join(list(reasons)[:3])}{' ...' * (len(reasons) > 3)}",
            remedy="Restore them, or set data.unreadable=leave_out to go on without them",
            kind="unreadable_images",
        )
    say(f"left out          {what}")


def _check(
    paths: Sequence[str], rendering: str, workers: int
) -> Iterator[tuple[str, ImageError | None]]:
    if workers < 1 or multiprocessing.current_process().daemon:  # which may start no others
        yield from zip(paths, _read_all(paths, rendering), strict=True)
        return
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    results: list[Future[list[ImageError | None]]] = []
    with ProcessPoolExecutor(workers) as pool:
        for chunk in chunks:
            try:
                results.append(pool.submit(_read_all, chunk, rendering))
            except BrokenProcessPool as error:
                results.append(Future())
                results[-1].set_exception(error)
        for chunk, result in zip(chunks, results, strict=True):
            try:
                yield from zip(chunk, result.result(), strict=True)
            except BrokenProcessPool:
                # Every chunk that was under way fails with it: find the file, keep the others.
                yield from ((path, _read_alone(path, rendering)) for path in chunk)


def _read_all(paths: Sequence[str], rendering: str) -> list[ImageError | None]:
    return [_read(path, rendering) for path in paths]


def _read(path: str, rendering: str) -> ImageError | None:
    from llava_rad.images import load_radiograph

    try:
        load_radiograph(path, rendering=rendering)  # type: ignore[arg-type]
    except ImageError as error:
        error.__cause__ = error.__traceback__ = None  # may hold the file's bytes
        return error
    return None


def _read_alone(path: str, rendering: str) -> ImageError | None:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(_read, path, rendering).result()
        except BrokenProcessPool:
            return ImageError(
                "reading it takes the whole process down",
                where=path,
                remedy="Copy or export the file again",
                kind="decoder_crashed",
            )
