"""Write the tokens an encoder makes of images to a safetensors file."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from llava_rad.encoders import ImageEncoder
from llava_rad.encoders.pictures import encode_images
from llava_rad.errors import LlavaRadError
from llava_rad.names import escape_name, unescape_name
from llava_rad.outputs import own_file
from llava_rad.tensor_stream import TensorStream


@dataclass(frozen=True)
class Encoded:
    """What a file of tokens holds.

    Attributes:
        count: of its images.
        failed: paths of the images that could not be read.
    """

    count: int
    failed: tuple[str, ...]


def encode_to_file(
    file: Path,
    encoder: ImageEncoder,
    paths: Sequence[str],
    *,
    batch_size: int = 8,
    frame: int | None = None,
    begin_anew: bool = False,
    told: Callable[[str, LlavaRadError | None], None] = lambda *_: None,
    resumed: Callable[[int], None] = lambda _: None,
) -> Encoded:
    """Write ``cls`` [images, dim] and ``patches`` [images, tokens, dim] of image files.

    Tokens go to the disk as they come, and a run that was cut off goes on where it stopped. The
    file's metadata holds ``images`` (their paths in order, JSON; names that are no
    UTF-8 as :mod:`llava_rad.names` says), ``encoder`` (its name), ``fingerprint`` and ``grid``
    (rows and columns of the patches, JSON).

    Args:
        file: the safetensors file.
        encoder: from :func:`llava_rad.load_encoder`.
        paths: image files; what is named twice comes once.
        batch_size: images encoded together.
        frame: which picture of files that hold several, see ``load_radiograph``.
        begin_anew: throw away what an unfinished run has left.
        told: each path that is done, with the error of one that cannot be read.
        resumed: told how many are there already.

    Raises:
        DataError: another run writes the file, an unfinished one had other settings or images, or
            the disk refuses.
    """
    paths = list(dict.fromkeys(paths))
    size = encoder.preprocessing.image_size
    metadata = {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint(),
        "grid": json.dumps(encoder.grid(size, size)),
    }
    identity = {
        "encoder": f"{encoder.name} {metadata['fingerprint'][:12]}",
        "dtype": str(next(encoder.parameters()).dtype),
        "frame": frame,
        "images": _images_id(paths),
    }
    names = json.dumps([escape_name(path) for path in paths], ensure_ascii=False)
    # Within the header the list stands as a text, its quotes escaped.
    room = len(json.dumps({**metadata, "images": names}, ensure_ascii=False).encode())
    with (
        own_file(file, "run of encode"),
        TensorStream(file, identity, ("patches", "cls"), room, begin_anew=begin_anew) as stream,
    ):
        done = [unescape_name(path) for batch in stream.done for path in batch["read"]]
        failed: list[str] = []
        over = set(done)
        todo = [path for path in paths if path not in over]
        if done:
            resumed(len(done))
        for start in range(0, len(todo), batch_size):
            results = list(
                encode_images(
                    encoder, todo[start : start + batch_size], batch_size=batch_size, frame=frame
                )
            )
            tokens = {path: r for path, r in results if not isinstance(r, LlavaRadError)}
            if tokens:
                rows = {
                    "cls": torch.stack([cls for cls, _ in tokens.values()]),
                    "patches": torch.stack([patches for _, patches in tokens.values()]),
                }
                stream.append(rows, {"read": [escape_name(path) for path in tokens]})
                done += tokens
            for path, result in results:
                error = result if isinstance(result, LlavaRadError) else None
                failed += [path] if error is not None else []
                told(path, error)
        if done:
            images = json.dumps([escape_name(path) for path in done], ensure_ascii=False)
            stream.finish({"images": images, **metadata})
        else:
            stream.discard()
    return Encoded(len(done), tuple(failed))


def is_token_file(file: Path) -> bool:
    """Whether a file holds an encoder's tokens of images."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return {"images", "encoder", "fingerprint"} <= about.keys()


def _images_id(paths: Sequence[str]) -> str:
    """How many, and a hash of paths, sizes and times."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (a text is what the caller has)
            stamp = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            stamp = []
        digest.update(json.dumps([escape_name(path), *stamp]).encode())
    return f"{len(paths)} files, {digest.hexdigest()[:12]}"
