"""Sources whose images were all opened before the first step of a run."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from llava_rad.dinov2.config import DataConfig
from llava_rad.dinov2.image_cache import build_cache
from llava_rad.dinov2.image_sources import ImageSource
from llava_rad.errors import DataError, ImageError
from llava_rad.names import escape_name, unescape_name
from llava_rad.readers import read_json


class Readable(ImageSource):
    """The images of a source that can be read.

    Args:
        source: all images.
        skipped: names of those that cannot be read.
    """

    def __init__(self, source: ImageSource, skipped: Mapping[str, object]) -> None:
        self.source = source
        self.indices = [i for i in range(len(source)) if source.name(i) not in skipped]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> np.ndarray:
        """Read from the source."""
        return self.source.read(self.indices[index])

    def name(self, index: int) -> str:
        """Return the source's name."""
        return self.source.name(self.indices[index])

    def fingerprint(self) -> str:
        """Return a hash over the source and what of it is left."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        digest.update(np.array(self.indices, dtype=np.int64).tobytes())
        return digest.hexdigest()


def open_readable(
    source: ImageSource, data: DataConfig, folder: Path
) -> tuple[ImageSource, dict[str, str]]:
    """Read every image of a source once: into the cache, or to see that it can be read.

    Args:
        source: the images.
        data: says whether there is a cache.
        folder: of caches; also keeps what was found, so that a resumed run need not look again.

    Returns:
        The images that can be read, and names of the others with the reason.

    Raises:
        DataError: there is a cache, and no image can be read.
    """
    if data.cache_size is not None:
        cache = build_cache(source, folder, data.cache_size, data.workers)
        return cache, cache.skipped
    skipped = _unreadable(source, folder, data.workers)
    return (Readable(source, skipped) if skipped else source), skipped


def _unreadable(source: ImageSource, folder: Path, workers: int) -> dict[str, str]:
    file = folder / f"{source.fingerprint()[:16]}-unreadable.json"
    try:
        known = read_json(file, expect=dict)
        return {unescape_name(name): str(reason) for name, reason in known.items()}
    except DataError:
        pass  # not looked at yet
    check = functools.partial(_why_not, source)
    if workers:
        with ProcessPoolExecutor(workers) as pool:
            reasons = list(pool.map(check, range(len(source)), chunksize=16))
    else:
        reasons = list(map(check, range(len(source))))
    skipped = {source.name(i): reason for i, reason in enumerate(reasons) if reason is not None}
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    content = {escape_name(name): reason for name, reason in skipped.items()}
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(file)
    return skipped


def _why_not(source: ImageSource, index: int) -> str | None:
    try:
        source.read(index)
    except ImageError as error:
        return str(error)
    return None
