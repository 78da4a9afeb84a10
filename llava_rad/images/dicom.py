"""DICOM files as radiographs."""

from io import BytesIO

import pydicom
from pydicom import uid as uids

from llava_rad.errors import ImageError
from llava_rad.images.dicom_grays import grays_of
from llava_rad.images.dicom_header import (
    pixel_spacing_of,
    text_of,
    view_and_position,
    warn_of_unfit_objects,
)
from llava_rad.images.dicom_pixels import is_lossy, read_stored
from llava_rad.images.integrity import check_deflated
from llava_rad.images.radiograph import Notes, Radiograph, Rendering


def looks_like_dicom(data: bytes) -> bool:
    """Return whether data start like a DICOM file, with or without preamble and meta group."""
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    group, element = data[:2], data[2:4]
    if group not in (b"\x08\x00", b"\x02\x00", b"\x00\x08") or len(data) < 16:
        return False
    # A small element number, then a VR of two capitals or a 32-bit length that fits in the file.
    number = int.from_bytes(element, "big" if group == b"\x00\x08" else "little")
    has_vr = data[4:6].isalpha() and data[4:6].isupper()
    return number < 0x1200 and (has_vr or int.from_bytes(data[4:8], "little") < len(data))


def read_dicom(data: bytes, *, rendering: Rendering, source: str) -> Radiograph:
    """Read the bytes of a DICOM file.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes({"file_format": "DICOM", "modality": "identity"})
    if data[:4] == b"DICM":
        data = bytes(128) + data  # written without its preamble
    _check_deflated(data)
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    if not len(dataset):
        # pydicom drops everything when the file ends inside an element of undefined length.
        if dataset.file_meta:
            raise ImageError(
                "nothing can be read after the meta header, the file is cut off or damaged",
                remedy="Copy or download the file again",
                kind="truncated_image",
            )
        raise ImageError(
            "the content is not DICOM",
            remedy="Pass a DICOM, PNG, JPEG or TIFF file",
            kind="not_dicom",
        )
    stored = read_stored(dataset, notes)
    notes.facts.update(
        bits_allocated=int(dataset.get("BitsAllocated") or 0),
        bits_stored=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
        lossy=is_lossy(dataset),
    )
    pixels = grays_of(dataset, stored, rendering, notes)
    view, position = view_and_position(dataset, notes)
    warn_of_unfit_objects(dataset, view, notes)
    return Radiograph(
        pixels=pixels,
        rendering=rendering,
        view=view,
        view_position=position,
        laterality=text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality"),
        pixel_spacing=pixel_spacing_of(dataset, notes),
        photometric=notes.facts,
        warnings=tuple(notes.warnings),
        source=source,
    )


def _check_deflated(data: bytes) -> None:
    """Check a deflated data set before pydicom inflates it whole."""
    if uids.DeflatedExplicitVRLittleEndian.encode() in data[:2048] and data[128:132] == b"DICM":
        # Preamble, prefix, then the 12 bytes of the element that gives the meta group's length.
        start = 144 + int.from_bytes(data[140:144], "little")
        check_deflated(data[start:])
