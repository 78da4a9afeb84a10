"""Decoded images in one memory-mapped file, so that no image is decoded twice.

Decoding and rendering a radiograph takes far longer than cutting crops from it. The cache holds
each image as uint8 with its shorter side reduced; all worker processes share its pages. Each image
has a checksum in the index: a damaged one is decoded again and mended in its place.
"""

import contextlib
import functools
import logging
import secrets
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from llava_rad.dinov2.image_sources import ImageSource
from llava_rad.errors import DataError, ImageError
from llava_rad.files import (
    clear_leftovers,
    make_folder,
    read_sealed,
    write_atomically,
    write_sealed,
)
from llava_rad.locks import FileLock
from llava_rad.names import escape_name, unescape_name
from llava_rad.runs.stopping import calm_worker
from llava_rad.wording import counted

_LOG = logging.getLogger(__name__)

FORMAT = 2


class ImageCache(ImageSource):
    """A source whose images were decoded and resized before.

    Args:
        index_file: of the cache.
        source: that was decoded; damaged images are read from it again.
        shorter_side: of the decoded images.

    Attributes:
        skipped: names of images that could not be read, with the reason.

    Raises:
        DataError: index or pixels are damaged (kind ``damaged_file``).
        OSError: they are not there, or cannot be read.
    """

    def __init__(self, index_file: Path, source: ImageSource, shorter_side: int) -> None:
        index = read_sealed(index_file)
        if index.get("format") != FORMAT:
            raise DataError(
                "the cache is of another version", where=index_file, kind="damaged_file"
            )
        self.skipped: dict[str, str] = {
            unescape_name(name): reason for name, reason in index["skipped"].items()
        }
        self._source = source
        self._shorter_side = shorter_side
        self._places: list[int] = index["places"]
        self._shapes = np.array(index["shapes"], dtype=np.int64).reshape(-1, 2)
        self._checksums = np.array(index["checksums"], dtype=np.uint32)
        self._ends = np.cumsum(self._shapes.prod(axis=1))
        self._name = index_file.stem
        self._file = index_file.with_name(index["pixels"])
        size = self._file.stat().st_size
        if size != self._ends[-1]:
            raise DataError(
                f"the pixels are cut off ({size:,} of {self._ends[-1]:,} bytes)",
                where=self._file,
                kind="damaged_file",
            )
        self._pixels: np.ndarray | None = None
        self._checked = np.zeros(len(self._places), dtype=bool)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> np.ndarray:
        """Return a view into the mapped file.

        Raises:
            DataError: a damaged image cannot be mended.
        """
        if self._pixels is None:
            self._pixels = np.memmap(self._file, np.uint8, mode="r")
        height, width = self._shapes[index]
        end = self._ends[index]
        pixels = self._pixels[end - height * width : end].reshape(height, width)
        if not self._checked[index]:
            if zlib.crc32(pixels.data) != self._checksums[index]:
                pixels = self._mend(index, int(end - height * width))
            self._checked[index] = True
        return pixels

    def _mend(self, index: int, start: int) -> np.ndarray:
        _LOG.warning("image cache: %s is damaged and decoded again", self.name(index))
        pixels = _decode(self._source, self._shorter_side, self._places[index])
        if isinstance(pixels, str) or zlib.crc32(pixels.data) != self._checksums[index]:
            raise DataError(
                "the cached image is damaged, and the image it was made from cannot be read or "
                "has changed",
                where=self.name(index),
                remedy=f"Put the image back, or delete {self._file} to make the cache anew",
                kind="damaged_file",
            )
        # Every process that finds the damage writes the same bytes.
        with contextlib.suppress(OSError), self._file.open("r+b") as file:
            file.seek(start)
            file.write(pixels.tobytes())
        return pixels

    def name(self, index: int) -> str:
        """Return the name the image has in the source that was decoded."""
        return self._source.name(self._places[index])

    def files(self) -> list[Path]:
        """Return the files of the source that was decoded."""
        return self._source.files()

    def fingerprint(self) -> str:
        """Return the cache's own name, made from the source's fingerprint and the size."""
        return self._name

    def __getstate__(self) -> dict:
        # Worker processes map the file themselves; a pickled map would copy it.
        return {**self.__dict__, "_pixels": None}


def build_cache(
    source: ImageSource,
    folder: Path,
    shorter_side: int,
    workers: int = 0,
    *,
    private: bool = False,
) -> ImageCache:
    """Return the cache of a source, making it first if ``folder`` does not hold it yet.

    Runs may share the folder: who finds another run making the same cache waits for it. A damaged
    cache is made anew.

    Args:
        source: the images.
        folder: where caches lie; each has a name made from the source and the size.
        shorter_side: in pixels; smaller images are kept as they are.
        workers: processes that decode; 0 decodes in this one.
        private: make the folder for the user alone.

    Raises:
        DataError: no image could be read, or the cache cannot be written.
    """
    index_file = folder / f"{source.fingerprint()[:16]}-{shorter_side}.json"
    try:
        return ImageCache(index_file, source, shorter_side)
    except (FileNotFoundError, DataError):
        pass
    try:
        make_folder(folder, private=private)
        lock = FileLock(index_file.with_suffix(".lock"), "run")
        lock.wait(lambda reason: _LOG.warning("waiting for the image cache: %s", reason))
        try:
            return _made(source, index_file, shorter_side, workers)
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"the image cache cannot be written ({error.strerror or error})",
            where=folder,
            remedy="Free space, correct the rights, or set data.cache_folder to another disk",
            kind="cache_not_written",
        ) from error


def _made(source: ImageSource, index_file: Path, shorter_side: int, workers: int) -> ImageCache:
    """The cache, made unless another run has finished it; its lock is held."""
    try:
        return ImageCache(index_file, source, shorter_side)
    except FileNotFoundError:
        pass
    except DataError as error:
        _LOG.warning("image cache: made anew: %s", error)
    clear_leftovers(index_file.parent)
    _write_cache(source, index_file, shorter_side, workers)
    made = ImageCache(index_file, source, shorter_side)
    for old in index_file.parent.glob(f"{index_file.stem}*.uint8"):
        if old != made._file:
            with contextlib.suppress(OSError):
                old.unlink()
    return made


def _write_cache(source: ImageSource, index_file: Path, shorter_side: int, workers: int) -> None:
    places: list[int] = []
    shapes: list[tuple[int, ...]] = []
    checksums: list[int] = []
    skipped: dict[str, str] = {}
    decode = functools.partial(_decode, source, shorter_side)
    # Pixels of a name of their own: an index never meets those of another.
    pixels = index_file.with_name(f"{index_file.stem}-{secrets.token_hex(4)}.uint8")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(stack.enter_context(write_atomically(pixels)).open("wb"))
        run: Callable[..., Iterator[np.ndarray | str]] = map
        if workers:
            pool = stack.enter_context(ProcessPoolExecutor(workers, initializer=calm_worker))
            stack.callback(pool.shutdown, cancel_futures=True)  # a signal waits for none of them
            run = functools.partial(pool.map, chunksize=16)
        for index, image in enumerate(run(decode, range(len(source)))):
            if isinstance(image, str):
                skipped[source.name(index)] = image
            else:
                places.append(index)
                shapes.append(image.shape)
                checksums.append(zlib.crc32(image.data))
                file.write(image.tobytes())
        if not places:
            raise DataError(
                f"none of {counted(len(source), 'image')} can be read",
                where=source.name(0),
                remedy=f"The first one says: {skipped[source.name(0)].rstrip('.')}",
            )
    # The index is written last: where it exists, the pixels are complete.
    content = {
        "format": FORMAT,
        "pixels": pixels.name,
        "places": places,
        "shapes": shapes,
        "checksums": checksums,
        "skipped": {escape_name(name): reason for name, reason in skipped.items()},
    }
    write_sealed(index_file, content)


def _decode(source: ImageSource, shorter_side: int, index: int) -> np.ndarray | str:
    """Return the reduced image, or why it cannot be read."""
    try:
        image = source.read(index)
    except ImageError as error:
        return str(error)
    height, width = image.shape
    factor = shorter_side / min(height, width)
    if factor >= 1:
        return np.ascontiguousarray(image)
    size = (max(round(width * factor), shorter_side), max(round(height * factor), shorter_side))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def pixel_statistics(source: ImageSource, limit: int = 5000) -> tuple[float, float]:
    """Mean and standard deviation of the pixels in 0..1, each image counting the same.

    Args:
        source: the images.
        limit: at most this many are read, spread evenly over the source.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int))
    values = np.arange(256) / 255
    moments = np.zeros(2)
    for index in indices:
        counts = np.bincount(source.read(int(index)).reshape(-1), minlength=256)
        share = counts / counts.sum()
        moments += [share @ values, share @ values**2]
    mean, square = moments / len(indices)
    return float(mean), float(np.sqrt(max(square - mean**2, 1e-12)))
