"""What a command writes: never over an input, never over a stranger's file, one run at a time.

A file is known to be this project's by what it holds:

==================== ===========================================================================
reports, JSON lines  every line is an object with ``study_id`` and ``run``
reports, text        every report ends in a line ``-- {"study_id": ..., "run": ...}``
tokens               a safetensors file whose metadata names ``encoder`` and ``fingerprint``
manifest             its first row is a study; Parquet: it has a manifest's columns
pictures             PNG and SVG name ``llava-rad`` as what made them
weights              a safetensors file with the checksums of :mod:`llava_rad.files`
results              JSON objects with the keys, tables and pages with the beginnings, that results
                     have
==================== ===========================================================================

Empty files and devices may always be written to. Folders of results hold files of fixed names,
and the files of other names in them are left alone.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError, LlavaRadError
from llava_rad.files import clear_leftovers, write_atomically, write_bytes
from llava_rad.locks import FolderLock, locked
from llava_rad.tensor_files import CHECKSUMS

#: What pictures name as what made them.
MAKER = "llava-rad"


def is_special(path: Path) -> bool:
    """Whether it is a device or pipe, which is written to as it is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def refuse_inputs(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that is one of the inputs, whatever name or link it goes by.

    Args:
        output: to be written.
        inputs: files that are read; folders count for themselves alone.

    Raises:
        DataError: it is one of them (kind ``output_is_input``).
    """
    output = Path(output)
    try:
        there = output.stat()
    except OSError:
        return  # what does not exist is no input
    if is_special(output):
        return
    for each in inputs:
        try:
            status = os.stat(each)  # noqa: PTH116 (inputs may be many, and are texts)
        except (OSError, ValueError):
            continue
        if (status.st_dev, status.st_ino) == (there.st_dev, there.st_ino):
            named = "" if str(each) == str(output) else f" ({each})"
            raise DataError(
                f"the output is one of the inputs{named}",
                where=output,
                remedy="Choose another --output; inputs are never written to",
                kind="output_is_input",
            )


def refuse_foreign(
    output: str | Path, is_ours: Callable[[Path], bool], what: str, *, overwrite: bool = False
) -> None:
    """Refuse an output that exists and that no command of ours has written.

    Args:
        output: to be written.
        is_ours: looks into a file that is not empty.
        what: such files are called, in the message.
        overwrite: let it be replaced nevertheless.

    Raises:
        DataError: it is a folder (kind ``output_is_folder``), or another file (kind
            ``foreign_output``).
    """
    output = Path(output)
    if output.is_dir():
        raise DataError(
            "this is a folder",
            where=output,
            remedy="Give the name of a file",
            kind="output_is_folder",
        )
    if overwrite or is_special(output):
        return
    try:
        if not output.is_file() or output.stat().st_size == 0 or is_ours(output):
            return
    except OSError as error:
        raise DataError(
            f"the file that is there cannot be read ({error.strerror or error})",
            where=output,
            remedy="Choose another --output",
            kind="unreadable_output",
        ) from error
    raise DataError(
        f"there is a file already, and it is no {what}",
        where=output,
        remedy="Choose another --output, or replace it with --overwrite",
        kind="foreign_output",
    )


@contextlib.contextmanager
def own_file(output: str | Path, what: str) -> Iterator[None]:
    """Hold an output file against other runs, its folder made.

    Args:
        output: a device or pipe belongs to nobody.
        what: such a run is called, in messages.

    Raises:
        DataError: another run writes it, or nothing can be written there.
    """
    output = Path(output)
    if is_special(output):
        yield
        return
    make_parent(output)
    with locked(output, what):
        clear_leftovers(output.parent)  # of a run that was killed
        yield


@contextlib.contextmanager
def own_folder(folder: str | Path, what: str) -> Iterator[None]:
    """Hold a folder of results against other runs; made if absent, gone again if it stays empty.

    Raises:
        DataError: another run writes there, or nothing can be written there.
    """
    folder = Path(folder)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder cannot be written to ({error.strerror or error})",
            where=folder,
            remedy="Correct its rights, or choose another folder",
            kind="not_writable",
        ) from error
    try:
        with FolderLock(folder, what):
            clear_leftovers(folder)  # of a run that was killed
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def refuse_results(
    folder: Path,
    known: Mapping[str, Callable[[Path], bool]],
    inputs: Iterable[str | Path],
    *,
    overwrite: bool = False,
) -> None:
    """Refuse results that would replace an input or a stranger's file.

    Args:
        folder: of the results; it may be absent.
        known: name of each result, and how it is known.
        inputs: files that are read.
        overwrite: let strangers' files of these names be replaced.

    Raises:
        DataError: one of them would.
    """
    inputs = list(inputs)
    for name, is_ours in known.items():
        refuse_inputs(folder / name, inputs)
        refuse_foreign(folder / name, is_ours, "result of this program", overwrite=overwrite)


@contextlib.contextmanager
def own_results(
    folder: Path,
    known: Mapping[str, Callable[[Path], bool]],
    inputs: Iterable[str | Path],
    *,
    what: str,
    overwrite: bool = False,
) -> Iterator[None]:
    """Hold a folder of results against other runs.

    Args:
        folder: made if absent.
        known: name of each result that will be written there, and how it is known.
        inputs: files that are read.
        what: such a run is called, in messages.
        overwrite: let strangers' files of these names be replaced.

    Raises:
        DataError: a result would replace an input or a stranger's file, another run writes there,
            or nothing can be written there.
    """
    refuse_results(folder, known, inputs, overwrite=overwrite)
    with own_folder(folder, what):
        yield


@contextlib.contextmanager
def own_shared_results(
    folder: Path | None,
    known: Mapping[str, Callable[[Path], bool]],
    inputs: Iterable[str | Path],
    *,
    what: str,
    overwrite: bool = False,
) -> Iterator[None]:
    """As :func:`own_results`, for a run of several processes, which call this together.

    Where ``folder`` is None there are no results, and nothing is held.
    """
    if folder is None:
        yield
        return
    from accelerate.utils import broadcast_object_list

    from llava_rad.processes import process_state

    answer: list[Any] = [None]
    with contextlib.ExitStack() as stack:
        if process_state().is_main_process:
            try:
                stack.enter_context(
                    own_results(folder, known, inputs, what=what, overwrite=overwrite)
                )
            except LlavaRadError as error:
                answer[0] = error
        broadcast_object_list(answer)
        if answer[0] is not None:
            raise answer[0]
        yield


def make_parent(output: Path) -> None:
    """Make the folder of an output.

    Raises:
        DataError: it cannot be made (kind ``not_writable``).
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error


def cannot_write(output: str | Path, error: Exception) -> DataError:
    """What is said of an output that the system refuses: a full disk, rights, a folder gone."""
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"cannot write ({reason})",
        where=output,
        remedy="Check the disk's free space and the folder's rights, or choose another output",
        kind="not_writable",
    )


def write_result(output: str | Path, parts: str | Iterable[str]) -> None:
    """Write UTF-8 text whole or not at all, its folder made.

    Args:
        output: a device or pipe is written to as it is.
        parts: the text, at once or piece by piece.

    Raises:
        DataError: it cannot be written.
    """
    output = Path(output)
    make_parent(output)
    try:
        with (
            write_atomically(output) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines([parts] if isinstance(parts, str) else parts)
    except OSError as error:
        raise cannot_write(output, error) from error


def write_bytes_result(output: str | Path, content: bytes) -> None:
    """Write a file whole or not at all, its folder made. Raises DataError."""
    output = Path(output)
    make_parent(output)
    try:
        write_bytes(output, content)
    except OSError as error:
        raise cannot_write(output, error) from error


def is_our_picture(path: Path) -> bool:
    """Whether a PNG or SVG file names this project as its maker."""
    return starts_with(path, "PNG", f"Software\0{MAKER}") or starts_with(path, "<svg", MAKER)


def has_checksums(path: Path) -> bool:
    """Whether a safetensors file has the checksums that this project writes."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return CHECKSUMS in (opened.metadata() or {})
    except SafetensorError:
        return False


def has_keys(path: Path, *keys: str, lines: bool = False) -> bool:
    """Whether a file is a JSON object with these keys, or its first line is one."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.readline() if lines else file.read())
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() >= set(keys)


def starts_with(path: Path, *texts: str) -> bool:
    """Whether a file has these texts in its first bytes."""
    with path.open("rb") as file:
        begin = file.read(1024)
    return all(text.encode() in begin for text in texts)


def claim(
    output: Path | None,
    is_ours: Callable[[Path], bool],
    what: str,
    inputs: Iterable[str | Path],
    *,
    overwrite: bool,
) -> None:
    """Refuse a place for a result, before the work for it begins.

    Args:
        output: None asks nothing.
        is_ours: looks into a file that is not empty.
        what: such files are called, in the message.
        inputs: files that are read.
        overwrite: let a stranger's file be replaced.

    Raises:
        DataError: it is an input, a folder, or a file of something else; its folder cannot be made.
    """
    if output is None:
        return
    refuse_inputs(output, inputs)
    refuse_foreign(output, is_ours, what, overwrite=overwrite)
    make_parent(output)


def claim_json(
    output: Path | None, keys: Iterable[str], inputs: Iterable[str | Path], *, overwrite: bool
) -> None:
    """:func:`claim` a place for numbers as JSON, told by the keys that such an object has."""
    names = tuple(keys)
    claim(
        output,
        lambda path: has_keys(path, *names),
        "file of such numbers",
        inputs,
        overwrite=overwrite,
    )
