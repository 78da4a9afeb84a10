"""Errors for pictures that are not whole, and the check of zlib streams.

Decoders do not say what they leave out: libjpeg fills what is missing with gray, OpenJPEG with
whatever it has, and a PNG decoder stops at the last row without looking at checksums. Each format
has a check of its own beside this file (``jpeg_stream``, ``jpeg2000_stream``, ``png_stream``,
``tiff_stream``, ``run_lengths``, ``lzw``) that follows the data to their end and counts what they
hold before they become half a picture.
"""

import zlib
from collections.abc import Sequence

from llava_rad.errors import ImageError

_LARGEST_RATIO = 1032  # of deflate
_BLOCK = 2**20
_SPARE = 2**24


def cut_off() -> ImageError:
    """Return the error for data that end too early."""
    return ImageError(
        "the compressed picture ends before its end marker, the file is cut off",
        remedy="Copy or download the file again",
        kind="truncated_image",
    )


def not_whole(what: str) -> ImageError:
    """Return the error for data that have their end but not all of the picture."""
    return ImageError(
        f"the picture is incomplete or damaged: {what}",
        remedy="Copy or download the file again",
        kind="truncated_image",
    )


def broken(what: str) -> ImageError:
    """Return the error for data that hold no picture."""
    return ImageError(what, remedy="Copy or export the file again", kind="broken_image")


def check_zlib(parts: Sequence[bytes | memoryview], expected: int) -> None:
    """Check that a zlib stream inflates to at least the expected bytes and ends in its checksum.

    Raises:
        ImageError: ``truncated_image``.
    """
    held = sum(map(len, parts))
    if expected > _LARGEST_RATIO * held:
        raise not_whole(f"{held} bytes of data cannot hold its pixels")
    inflater, size = zlib.decompressobj(), 0
    try:
        for part in parts:
            for start in range(0, len(part), _BLOCK):
                waiting: bytes | memoryview = part[start : start + _BLOCK]
                while waiting and not inflater.eof:
                    size += len(inflater.decompress(waiting, _BLOCK))
                    waiting = inflater.unconsumed_tail
                    # The checksum covers what is over, so some of it is read too.
                    if size > expected + _SPARE:
                        raise not_whole("its data hold far more than its pixels")
    except zlib.error as error:
        raise not_whole(f"its data cannot be inflated ({error})") from error
    if size < expected:
        raise not_whole(f"its data hold {size} of {expected} bytes")
    if not inflater.eof:
        raise not_whole("its data have no end")
