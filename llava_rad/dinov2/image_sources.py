"""Where training images come from: files, or members of tar shards.

Each source is a sequence of images that can be read in any order and by any process, so that the
order of a run is decided in one place and a run can stop and go on at any step.
"""

import functools
import hashlib
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np

from llava_rad.data.image_files import FoundImages, find_images, judge, summarise
from llava_rad.errors import DataError
from llava_rad.file_keys import stamp_key
from llava_rad.images import Rendering, load_radiograph
from llava_rad.names import escape_name


class ImageSource(ABC):
    """A sequence of grayscale images.

    Attributes:
        passed_over: reason to the files that are no images, where there was a search.
    """

    passed_over: Mapping[str, list[str]] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 ``[H, W]``.

        Raises:
            ImageError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what the image is called in messages."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files that the images are read from."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that changes with the images' files or rendering."""


class ImageFiles(ImageSource):
    """Images that are files of their own."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        rendering: Rendering = "minmax",
        passed_over: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.rendering = rendering
        self.passed_over = passed_over or {}

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:
        """Decode the file."""
        return load_radiograph(self.paths[index], rendering=self.rendering).pixels

    def name(self, index: int) -> str:
        """Return the path."""
        return str(self.paths[index])

    def files(self) -> list[Path]:
        """Return the paths."""
        return self.paths

    def fingerprint(self) -> str:
        """Return a hash over the rendering and each file's path, size and time of change."""
        digest = hashlib.sha256(self.rendering.encode())
        for path in self.paths:
            digest.update(f"\n{stamp_key(path)}".encode())
        return digest.hexdigest()


def image_folder(folder: Path, rendering: Rendering = "minmax") -> ImageFiles:
    """Return all images of a folder and its subfolders, in the order of their paths.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError("no such folder of images", where=folder, remedy="Check data.sources")
    found = find_images(folder)
    if not found.images:
        said = "; ".join(summarise(found.passed_over))
        raise DataError(f"no image file is there{'; ' * bool(said)}{said}", where=folder)
    return ImageFiles(found.images, rendering, found.passed_over)


class TarShards(ImageSource):
    """Images inside uncompressed tar files, as WebDataset writes them.

    The members' places are read once; from then on any image is one seek and one read away.

    Args:
        pattern: path of a tar file, or a glob of several.
        rendering: see :func:`llava_rad.images.load_radiograph`.

    Raises:
        DataError: no such shard, a damaged or compressed one, or no image in it.
    """

    def __init__(self, pattern: str | Path, rendering: Rendering = "minmax") -> None:
        pattern = Path(pattern)
        self.shards = sorted(pattern.parent.glob(pattern.name))
        self.rendering = rendering
        if not self.shards:
            raise DataError(
                "no such tar shard", where=pattern, remedy="Only the file name may hold * or ?"
            )
        self.names: list[str] = []
        places: list[tuple[int, int, int]] = []
        found = FoundImages()
        for number, shard in enumerate(self.shards):
            try:
                with shard.open("rb") as file, tarfile.open(shard, "r:") as tar:
                    for member in tar:
                        if not member.isfile():
                            continue
                        reason = judge(member.name, functools.partial(_head, file, member))
                        if reason is not None:
                            found.pass_over(reason, f"{shard}:{member.name}")
                            continue
                        self.names.append(member.name)
                        places.append((number, member.offset_data, member.size))
            except (tarfile.TarError, OSError) as error:
                raise DataError(
                    f"not a readable tar shard ({error})",
                    where=shard,
                    remedy="Shards must be complete and uncompressed",
                ) from error
        if not places:
            said = "; ".join(summarise(found.passed_over))
            raise DataError(f"the shards hold no image{'; ' * bool(said)}{said}", where=pattern)
        self.passed_over = found.passed_over
        self.places = np.array(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> np.ndarray:
        """Read and decode the member."""
        shard, offset, size = self.places[index].tolist()
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        return load_radiograph(content, rendering=self.rendering, name=self.name(index)).pixels

    def name(self, index: int) -> str:
        """Return ``SHARD:MEMBER``."""
        return f"{self.shards[self.places[index, 0]]}:{self.names[index]}"

    def files(self) -> list[Path]:
        """Return the shards."""
        return self.shards

    def fingerprint(self) -> str:
        """Return a hash over rendering, members, and each shard's path, size and time."""
        digest = hashlib.sha256(self.rendering.encode())
        digest.update("\n".join(map(escape_name, self.names)).encode())
        digest.update(self.places.tobytes())
        for shard in self.shards:
            digest.update(f"\n{stamp_key(shard)}".encode())
        return digest.hexdigest()


def _head(file: BinaryIO, member: tarfile.TarInfo, size: int) -> bytes:
    file.seek(member.offset_data)
    return file.read(min(size, member.size))
