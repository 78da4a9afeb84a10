"""Counting the bytes in run-length coded data: PackBits (TIFF) and RLE (DICOM), which are alike."""

import struct

from llava_rad.images.integrity import not_whole

_SEGMENTS = 15  # places in the header of a DICOM frame


def check_packbits(data: bytes | memoryview, expected: int) -> None:
    """Check that data expand to the expected number of bytes.

    Padding may follow: bytes of 0, or of 128, which code nothing.

    Raises:
        ImageError: ``truncated_image``.
    """
    position, size, length = 0, 0, len(data)
    if expected > 64 * length:  # two bytes make 128 at most
        raise not_whole(f"{length} bytes of data cannot hold its pixels")
    while size < expected and position < length:
        code = data[position]
        if code < 128:  # that many bytes and one more follow as they are
            position += code + 2
            size += code + 1
        elif code > 128:  # one byte, repeated
            position += 2
            size += 257 - code
        else:
            position += 1
    if size < expected or position > length:
        raise not_whole(f"its data hold {min(size, expected)} of {expected} bytes")
    if size > expected or bytes(data[position:]).strip(b"\0\x80"):
        raise not_whole("its data hold more than its pixels")


def check_rle_frame(frame: bytes, pixels: int) -> None:
    """Check that every segment of a DICOM RLE frame (PS3.5 G) expands to the number of pixels.

    Raises:
        ImageError: ``truncated_image``.
    """
    if len(frame) < 64:
        raise not_whole("its data are shorter than their header")
    count, *offsets = struct.unpack_from(f"<{1 + _SEGMENTS}I", frame)
    if not 1 <= count <= _SEGMENTS:
        raise not_whole("the header of its data makes no sense")
    starts = offsets[:count]
    ends = [*starts[1:], len(frame)]
    for start, end in zip(starts, ends, strict=True):
        if not 64 <= start < end <= len(frame):
            raise not_whole("the header of its data makes no sense")
        check_packbits(memoryview(frame)[start:end], pixels)
