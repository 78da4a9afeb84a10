"""Whether the files that a run learns from are still those that it began with.

A run's ``inputs.json`` holds a fingerprint of each source's files: their names, sizes and times.
Contents are not read, since a data set may hold terabytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_rad.errors import DataError, TrainingError
from llava_rad.files import read_sealed, stamp_key, write_sealed

FILE = "inputs.json"
_NAMED = 3


def remember_inputs(folder: Path, sources: Mapping[str, Sequence[str | Path]]) -> None:
    """Write the fingerprints for :func:`check_inputs`."""
    write_sealed(folder / FILE, {name: _fingerprint(files) for name, files in sources.items()})


def check_inputs(folder: Path, sources: Mapping[str, Sequence[str | Path]]) -> None:
    """Compare the files with those that the run in a folder began with.

    Where the run has no such record, one is written.

    Args:
        folder: of the run that is to be resumed.
        sources: files by the name of what they belong to.

    Raises:
        TrainingError: some differ (kind ``changed_inputs``), or the record is damaged.
    """
    record = folder / FILE
    if not record.exists():
        remember_inputs(folder, sources)
        return
    try:
        before = read_sealed(record)
    except DataError as error:
        raise TrainingError(
            "the record of the run's files is damaged",
            where=record,
            remedy="Delete it to resume without comparing them",
            kind="damaged_file",
        ) from error
    changed = []
    for name in sorted(before.keys() | sources.keys()):
        now = _fingerprint(sources.get(name, ()))
        old = before.get(name, {"files": 0, "digest": ""})
        if old != now:
            counts = f"{old['files']:,} then, {now['files']:,} now"
            newer = _newer(sources.get(name, ()), record)
            changed.append(f"{name} ({counts}{f', newer: {newer}' if newer else ''})")
    if changed:
        raise TrainingError(
            f"the files are not those that the run began with: {'; '.join(changed)}",
            where=folder,
            remedy="Put them back, or give another output. Where only their times changed, as in "
            f"a copy, delete {record.name} in this folder to resume",
            kind="changed_inputs",
        )


def _fingerprint(files: Sequence[str | Path]) -> dict[str, int | str]:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\n{stamp_key(file)}".encode())
    return {"files": len(files), "digest": digest.hexdigest()}


def _newer(files: Sequence[str | Path], record: Path) -> str:
    """Names of the first few files that changed after the record was written."""
    since = record.stat().st_mtime_ns
    found = []
    for file in files:
        try:
            if Path(file).stat().st_mtime_ns > since:
                found.append(str(file))
        except OSError:
            found.append(f"{file} is gone")
        if len(found) > _NAMED:
            break
    return ", ".join(found[:_NAMED]) + (" ..." if len(found) > _NAMED else "")
