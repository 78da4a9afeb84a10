"""DICOM files as radiographs."""

from llava_rad.errors import ImageError
from llava_rad.images.dicom_elements import DicomFile, read_elements
from llava_rad.images.dicom_grays import grays_of
from llava_rad.images.dicom_header import (
    laterality_of,
    pixel_ratio_of,
    pixel_spacing_of,
    view_and_position,
    warn_of_unfit_objects,
    with_functional_groups,
)
from llava_rad.images.dicom_pixels import read_stored
from llava_rad.images.dicom_shutter import shown_region
from llava_rad.images.dicom_values import label
from llava_rad.images.pixel_shape import made_square
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


def read_dicom(data: bytes, *, rendering: Rendering, frame: int | None, source: str) -> Radiograph:
    """Read the bytes of a DICOM file.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes({"file_format": "DICOM", "modality": "identity"})
    file = open_dicom(data)
    if file.lost:
        names = ", ".join(label(keyword) for keyword in file.lost)
        notes.warn("header", f"{names} cannot be read and was left out")
    stored = read_stored(file, notes, frame)
    header = with_functional_groups(file.header, frame or 1)
    spacing = pixel_spacing_of(header, notes)
    ratio = pixel_ratio_of(header, spacing)
    shape = stored.values.shape[:2]
    region = shown_region(header, shape, ratio, notes)
    gray = grays_of(header, stored, rendering, notes, region)
    pixels = made_square(gray, ratio, notes)
    scale = pixels.shape[0] / shape[0], pixels.shape[1] / shape[1]
    if spacing is not None and scale != (1.0, 1.0):
        kept = spacing[0] if scale[0] == 1 else spacing[1]  # the side that was not resampled
        spacing = kept, kept
    view, position = view_and_position(header, notes)
    warn_of_unfit_objects(header, view, notes)
    return Radiograph(
        pixels=pixels,
        rendering=rendering,
        view=view,
        view_position=position,
        laterality=laterality_of(header),
        pixel_spacing=spacing,
        photometric=notes.facts,
        warnings=tuple(notes.warnings),
        source=source,
        scale=scale,
    )


def open_dicom(data: bytes) -> DicomFile:
    """Read the elements of a DICOM file.

    Raises:
        ImageError: ``truncated_image`` or ``not_dicom`` if there is none.
    """
    if data[:4] == b"DICM":
        data = bytes(128) + data  # written without its preamble
    file = read_elements(data)
    if not file.empty:
        return file
    if not file.bare:
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
