"""Decoded images in one memory-mapped file, so that no image is decoded twice.

Decoding and rendering a radiograph takes far longer than cutting crops from it. The cache holds
each image as uint8 with its shorter side reduced; all worker processes share its pages.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from llava_rad.dinov2.image_sources import ImageSource
from llava_rad.errors import DataError, ImageError
from llava_rad.names import escape_name, unescape_name
from llava_rad.readers import read_json


class ImageCache(ImageSource):
    """A source whose images were decoded and resized before.

    Attributes:
        skipped: names of images that could not be read, with the reason.
    """

    def __init__(self, index_file: Path) -> None:
        index = read_json(index_file, expect=dict, remedy="Delete the cache, and it is made again")
        self.skipped: dict[str, str] = {
            unescape_name(name): reason for name, reason in index["skipped"].items()
        }
        self._names: list[str] = [unescape_name(name) for name in index["names"]]
        self._shapes = np.array(index["shapes"], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum(self._shapes.prod(axis=1))
        self._index_file = index_file
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> np.ndarray:
        """Return a view into the mapped file."""
        if self._pixels is None:
            self._pixels = np.memmap(self._index_file.with_suffix(".uint8"), np.uint8, mode="r")
        height, width = self._shapes[index]
        end = self._ends[index]
        return self._pixels[end - height * width : end].reshape(height, width)

    def name(self, index: int) -> str:
        """Return the name the image has in the source that was decoded."""
        return self._names[index]

    def fingerprint(self) -> str:
        """Return the cache's own name, made from the source's fingerprint and the size."""
        return self._index_file.stem

    def __getstate__(self) -> dict:
        # Worker processes map the file themselves; a pickled map would copy it.
        return {**self.__dict__, "_pixels": None}


def build_cache(
    source: ImageSource, folder: Path, shorter_side: int, workers: int = 0
) -> ImageCache:
    """Return the cache of a source, making it first if ``folder`` does not hold it yet.

    Args:
        source: the images.
        folder: where caches lie; each has a name made from the source and the size.
        shorter_side: in pixels; smaller images are kept as they are.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        DataError: no image could be read.
    """
    index_file = folder / f"{source.fingerprint()[:16]}-{shorter_side}.json"
    if not index_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_cache(source, index_file, shorter_side, workers)
    return ImageCache(index_file)


def _write_cache(source: ImageSource, index_file: Path, shorter_side: int, workers: int) -> None:
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    skipped: dict[str, str] = {}
    decode = functools.partial(_decode, source, shorter_side)
    # Two runs that share a folder may both be first; each writes under a name of its own.
    partial_pixels = index_file.with_suffix(f".uint8.{os.getpid()}.partial")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(partial_pixels.open("wb"))
        run: Callable[..., Iterator[np.ndarray | str]] = map
        if workers:
            pool = stack.enter_context(ProcessPoolExecutor(workers))
            run = functools.partial(pool.map, chunksize=16)
        for index, image in enumerate(run(decode, range(len(source)))):
            if isinstance(image, str):
                skipped[source.name(index)] = image
            else:
                names.append(source.name(index))
                shapes.append(image.shape)
                file.write(image.tobytes())
    if not names:
        raise DataError(
            f"none of {len(source)} images can be read",
            where=source.name(0),
            remedy=f"The first one says: {skipped[source.name(0)].rstrip('.')}",
        )
    # The index is written last: where it exists, the pixels are complete.
    partial_pixels.replace(index_file.with_suffix(".uint8"))
    partial_index = index_file.with_suffix(f".json.{os.getpid()}.partial")
    content = {
        "names": [escape_name(name) for name in names],
        "shapes": shapes,
        "skipped": {escape_name(name): reason for name, reason in skipped.items()},
    }
    partial_index.write_text(json.dumps(content), encoding="utf-8")
    partial_index.replace(index_file)


def _decode(source: ImageSource, shorter_side: int, index: int) -> np.ndarray | str:
    """Return the reduced image, or why it cannot be read."""
    try:
        image = source.read(index)
    except ImageError as error:
        return str(error)
    height, width = image.shape
    factor = shorter_side / min(height, width)
    if factor >= 1:
        return image
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
