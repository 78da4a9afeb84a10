"""Whether a WebP file has all of its chunks.

What they hold is left to libwebp: data that are too few it refuses, zeros among them it may not.
"""

import struct

from llava_rad.images.integrity import broken, cut_off, not_whole

_PICTURES = (b"VP8 ", b"VP8L", b"ANMF")


def check_webp(stream: bytes) -> None:
    """Check that a WebP file is as long as its header says and that its chunks fill it.

    Raises:
        ImageError: ``truncated_image``, or ``broken_image`` for a file without a picture.
    """
    if len(stream) < 12:
        raise cut_off()
    (size,) = struct.unpack_from("<I", stream, 4)
    if stream[8:12] != b"WEBP":
        raise broken("the RIFF file is no WebP file")
    end, position, names = 8 + size, 12, []
    if end > len(stream):
        raise cut_off()
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", stream, position)
        names.append(name)
        position += 8 + length + length % 2
    if position - 1 > end or position < end:
        raise not_whole("the chunks of the WebP file do not fill it")
    if not any(name in _PICTURES for name in names):
        raise broken("the WebP file holds no picture")
