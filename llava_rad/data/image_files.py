"""Which files of a folder are radiographs."""

from collections.abc import Iterator
from pathlib import Path

_DICOM_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
_OTHER_ENDINGS = (".png", ".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm")
IMAGE_ENDINGS = frozenset(_DICOM_ENDINGS + _OTHER_ENDINGS)

# Group numbers that a DICOM file without preamble starts with, little-endian.
_DICOM_GROUPS = (b"\x02\x00", b"\x08\x00")


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder, sorted by path.

    A file counts by its ending (:data:`IMAGE_ENDINGS`, in any case) or, where it has none, by its
    content: DICOM files are often named by a UID, ``1.2.840.113619``. Hidden files and folders
    and DICOMDIR indexes are passed over.
    """
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending in IMAGE_ENDINGS:
        return True
    if path.name == "DICOMDIR" or (ending and not ending[1:].isdigit()):
        return False
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or head[:2] in _DICOM_GROUPS
