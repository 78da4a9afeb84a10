"""What a file is, told from its first bytes."""

from pydicom.uid import UID

from llava_rad.images.dicom import looks_like_dicom
from llava_rad.images.raster import looks_like_raster

#: Bytes from a file's start that :func:`is_picture` and :func:`without_picture` need.
HEAD_BYTES = 1024

_DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_CLASS_ELEMENT = b"\x02\x00\x02\x00UI"  # (0002,0002) Media Storage SOP Class UID
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their sizes tell the versions apart


def is_picture(head: bytes) -> bool:
    """Whether a file that starts like this is DICOM or an image format that can be read.

    Signs of two letters, which a text may start with too, are looked at more closely.

    Args:
        head: the first :data:`HEAD_BYTES` of the file, or all of a shorter one.
    """
    if looks_like_dicom(head):
        return True
    if not looks_like_raster(head):
        return False
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith((b"P2", b"P5", b"P6")):
        return head[2:3].isspace() and head[3:4] in b"#0123456789 \n\t\r"
    return True


def without_picture(head: bytes) -> str | None:
    """What a DICOM file holds that by its class has no picture, such as a structured report.

    Args:
        head: as for :func:`is_picture`.

    Returns:
        The name of its class, None for a file with a picture, of an unknown class or not DICOM.
    """
    place = head.find(_CLASS_ELEMENT, 128)
    if head[128:132] != b"DICM" or place < 0:
        return None
    start = place + len(_CLASS_ELEMENT) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    uid = UID(head[start : start + length].decode("ascii", "replace").strip("\0 "))
    if uid == _DICOMDIR:
        return "DICOMDIR"
    name = uid.name
    return name if name != uid and "Storage" in name and "Image" not in name else None
