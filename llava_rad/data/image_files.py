"""Which files are radiographs: one rule for folders, patterns and tar shards.

A file whose ending is that of an image format is one, whatever it holds: what is wrong with it is
said when it is read. Any other file is judged by its first bytes: radiographs are often named by a
UID (``1.2.840.113619``), ``IM-0001-0001.dcm30``, ``B.img`` or nothing at all. What is passed over:

- ``hidden``: names that start with a dot, files and whole folders;
- ``companion``: texts and tables, by their ending (:data:`COMPANION_ENDINGS`);
- ``dicom_without_picture``: DICOMDIR, structured reports, presentation states and the like;
- ``no_picture``: the content is no image;
- ``unreadable``: a file or folder of which nothing can be read, or a link to nothing;
- ``folder_seen_before``: a link to a folder that was searched under another name.
"""

import glob
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

_DICOM_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
_OTHER_ENDINGS = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm")
IMAGE_ENDINGS = frozenset(_DICOM_ENDINGS + _OTHER_ENDINGS)
# fmt: off
COMPANION_ENDINGS = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xml", ".yaml", ".yml", ".md", ".log",
    ".html", ".htm", ".pdf", ".rtf", ".doc", ".docx", ".xls", ".xlsx",
})
# fmt: on


@dataclass
class FoundImages:
    """What a search found.

    Attributes:
        images: paths of the image files, sorted.
        passed_over: reason to the paths of the other files and folders.
    """

    images: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str) -> None:
        """Judge one file."""
        reason = _why_not(path)
        if reason is None:
            self.images.append(path)
        else:
            self.pass_over(reason, path)

    def pass_over(self, reason: str, path: str) -> None:
        """Record what is no image."""
        self.passed_over.setdefault(reason, []).append(path)


def find_images(folder: str | Path) -> FoundImages:
    """Search a folder and its sub-folders; links are followed, each folder is searched once."""
    found = FoundImages()
    for path in _files_below(os.fspath(folder), found):
        found.add(path)
    return found


def match_files(pattern: str, found: FoundImages) -> list[str]:
    """Files and folders that a glob pattern matches, sorted; ``**`` goes into no folder twice.

    Args:
        pattern: as the shell has it; ``**`` stands for any folders below.
        found: filled with what ``**`` at the end passes over.
    """
    parts = PurePath(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))  # noqa: PTH207 (pathlib's takes no absolute one)
    place = parts.index("**")
    start = str(Path(*parts[:place]))
    rest = list(itertools.dropwhile(lambda part: part == "**", parts[place:]))
    matches: set[str] = set()
    for base in sorted(glob.glob(start)) if glob.has_magic(start) else [start]:  # noqa: PTH207
        if not rest:
            matches.update(_files_below(base, found))
            continue
        folders = [base]
        for _ in _files_below(base, FoundImages(), folders):
            pass
        for folder in folders:
            # The folder's own name may look like a pattern.
            matches.update(match_files(str(Path(glob.escape(folder), *rest)), found))
    if not place:  # the shell writes "a.png" for what is found in "."
        matches = {match.removeprefix(f"{os.curdir}{os.sep}") for match in matches}
    return sorted(matches, key=lambda path: PurePath(path).parts)


def judge(name: str, read_head: Callable[[int], bytes]) -> str | None:
    """Why a file is passed over, or None for an image.

    Args:
        name: of the file, with or without folders.
        read_head: is called with a number of bytes and gives as many from the file's start, where
            the ending does not decide.
    """
    from llava_rad.images.content import HEAD_BYTES, is_picture, without_picture

    last = PurePath(name).name
    ending = PurePath(last).suffix.lower()
    if last.startswith("."):
        return "hidden"
    if last.upper().partition(";")[0] == "DICOMDIR":  # ";1" is a version, on old discs
        return "dicom_without_picture"
    if ending in _OTHER_ENDINGS:
        return None
    if ending in COMPANION_ENDINGS:
        return "companion"
    try:
        head = read_head(HEAD_BYTES)
    except (OSError, ValueError):
        return None if ending in IMAGE_ENDINGS else "unreadable"
    if without_picture(head) is not None:
        return "dicom_without_picture"
    return None if ending in IMAGE_ENDINGS or is_picture(head) else "no_picture"


def summarise(passed_over: Mapping[str, list[str]], names: int = 5) -> list[str]:
    """One line for each reason, with the first names."""
    return [
        f"passed over, {reason}: {len(paths)} "
        f"({', '.join(paths[:names])}{' ...' if len(paths) > names else ''})"
        for reason, paths in passed_over.items()
    ]


def _why_not(path: str) -> str | None:
    def read_head(size: int) -> bytes:
        with Path(path).open("rb") as file:
            return file.read(size)

    try:
        # A pipe would be waited for.
        regular = stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        regular = False
    return judge(path, read_head) if regular else "unreadable"


def _files_below(
    folder: str, found: FoundImages, folders: list[str] | None = None
) -> Iterator[str]:
    """All files below a folder in the order of their paths, hidden ones and loops left out.

    Args:
        folder: where to start.
        found: filled with what is left out.
        folders: filled with the sub-folders.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [iter(_entries(folder, found, seen) or ())]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        elif entry.name.startswith("."):
            found.pass_over("hidden", entry.path)
        elif not _is_folder(entry):
            yield entry.path
        elif (below := _entries(entry.path, found, seen)) is not None:
            waiting.append(iter(below))
            if folders is not None:
                folders.append(entry.path)


def _entries(
    folder: str, found: FoundImages, seen: set[tuple[int, int]]
) -> list[os.DirEntry[str]] | None:
    """What is in a folder, sorted by name; None where it cannot be read or was seen before."""
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            found.pass_over("folder_seen_before", folder)
            return None
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):
        found.pass_over("unreadable", folder)
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
