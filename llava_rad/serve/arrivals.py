"""Studies of a folder that fills: each is complete when none of its files has changed for a while.

Files are looked at again and again, since notices of changes do not come from network drives. What
counts is this machine's own clock from one look to the next, never the files' times: clocks of
other machines differ, and copies keep old times.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_rad.data.dicom_studies import ImageGroup, group_members
from llava_rad.data.image_files import find_images
from llava_rad.images.study_header import StudyHeader, read_study_header

#: Size in bytes and time of change in nanoseconds.
Stamp = tuple[int, int]


@dataclass
class _Seen:
    stamp: Stamp
    since: float
    header: StudyHeader | None


@dataclass(frozen=True)
class Arrival:
    """A study as far as it has come.

    Attributes:
        group: its files and their headers.
        stamps: of each file, by its path.
        complete: whether no file has changed for the quiet time.
    """

    group: ImageGroup
    stamps: Mapping[str, Stamp]
    complete: bool


class Arrivals:
    """What is in a folder, and since when it has been as it is.

    Files whose names start with a dot, files that are no images, and what other programs write
    beside them (texts, tables, structured reports) are passed over, as ``llava-rad report`` does.

    Args:
        folder: searched with its sub-folders.
        quiet: seconds without a change after which a study is complete.
        clock: seconds that never go back.
    """

    def __init__(
        self, folder: str | Path, quiet: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = Path(folder)
        self.quiet = quiet
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def look(self) -> list[Arrival]:
        """Look at the folder once.

        Returns:
            All its studies, in the order of their first files.
        """
        now = self._clock()
        self._seen = dict(self._look(now))
        members = [(path, seen.header) for path, seen in self._seen.items()]
        return [self._arrival(group, now) for group in group_members(members)]

    def _look(self, now: float) -> Iterator[tuple[str, _Seen]]:
        for path in find_images(self.folder).images:
            try:
                status = Path(path).stat()
            except OSError:
                continue  # gone meanwhile
            stamp = status.st_size, status.st_mtime_ns
            seen = self._seen.get(path)
            if seen is None or seen.stamp != stamp:
                seen = _Seen(stamp, now, read_study_header(path))
            yield path, seen

    def _arrival(self, group: ImageGroup, now: float) -> Arrival:
        seen = [self._seen[file] for file in group.files]
        return Arrival(
            group,
            {file: one.stamp for file, one in zip(group.files, seen, strict=True)},
            complete=all(now - one.since >= self.quiet for one in seen),
        )
