"""Whether the files that a run learns from are still those that it began with.

A run's ``inputs.json`` holds for each source a fingerprint of its files, and four bytes of each: of
their names, sizes and times. Contents are not read, since a data set may hold terabytes.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError, TrainingError
from llava_rad.file_keys import stamp_key
from llava_rad.files import read_sealed, write_sealed

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
        files = sources.get(name, ())
        now = _fingerprint(files)
        old = before.get(name, {"files": 0, "digest": "", "each": ""})
        if old["digest"] != now["digest"]:
            counts = f"{old['files']:,} then, {now['files']:,} now"
            differing = _differing(files, str(old.get("each", "")), str(now["each"]))
            changed.append(f"{name} ({counts}{f'; {differing}' if differing else ''})")
    if changed:
        raise TrainingError(
            f"the files are not those that the run began with: {'; '.join(changed)}",
            where=folder,
            remedy="Put them back, or give another output. Where only their times changed, as in "
            f"a copy, delete {record.name} in this folder to resume",
            kind="changed_inputs",
        )


def _fingerprint(files: Sequence[str | Path]) -> dict[str, Any]:
    digest, each = hashlib.sha256(), []
    for file in files:
        stamp = stamp_key(file).encode()
        digest.update(b"\n" + stamp)
        each.append(f"{zlib.crc32(stamp):08x}")
    return {"files": len(files), "digest": digest.hexdigest(), "each": "".join(each)}


def _differing(files: Sequence[str | Path], before: str, now: str) -> str:
    """The first few files that are new, were replaced, or are not there any more."""
    known = {before[place : place + 8] for place in range(0, len(before), 8)}
    found = []
    for number, file in enumerate(files):
        if now[8 * number : 8 * number + 8] not in known:
            found.append(f"{file} {'is new or was replaced' if Path(file).exists() else 'is gone'}")
        if len(found) > _NAMED:
            break
    return ", ".join(found[:_NAMED]) + (" ..." if len(found) > _NAMED else "")
