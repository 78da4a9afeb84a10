"""The stored values of a DICOM file, whatever they are wrapped in."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom import uid as uids
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from llava_rad.errors import ImageError
from llava_rad.images.integrity import jpeg2000_size, jpeg_size
from llava_rad.images.limits import check_size
from llava_rad.images.radiograph import Notes

_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NATIVE = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
)
_JPEG = (*uids.JPEGTransferSyntaxes, *uids.JPEGLSTransferSyntaxes)
_COMPRESSED = (*_JPEG, *uids.JPEG2000TransferSyntaxes, uids.RLELossless)
_LOSSY = (
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLSNearLossless,
)


def read_stored(dataset: Dataset, notes: Notes) -> NDArray[np.generic]:
    """Decode the pixel data.

    Returns:
        [rows, columns] of stored values, with the bits above Bits Stored as the file has them, or
        [rows, columns, 3] of red, green and blue.

    Raises:
        ImageError: ``no_pixel_data``, ``multi_frame``, ``too_large``, ``truncated_image``,
            ``unsupported_encoding`` or ``broken_image``.
    """
    keyword = _pixel_element(dataset)
    frames = dataset.get("NumberOfFrames") or 1
    if int(frames) != 1:
        raise ImageError(
            f"the file holds {frames} frames, a radiograph has one",
            remedy="Save the frame you mean as a file of its own",
            kind="multi_frame",
        )
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    check_size(rows, columns)

    syntax = _transfer_syntax(dataset, keyword, notes)
    notes.facts["transfer_syntax"] = syntax.name
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(
            f"pixel data in {syntax.name or syntax} cannot be decoded",
            remedy="Convert the file to Explicit VR Little Endian with a DICOM toolkit",
            kind="unsupported_encoding",
        ) from error
    if not decoder.is_available:
        raise ImageError(
            f"no decoder for {syntax.name} is installed",
            remedy="Install one of: " + "; ".join(decoder.missing_dependencies),
            kind="unsupported_encoding",
        )
    if syntax in _NATIVE:
        _check_length(dataset, keyword, rows, columns)
    else:
        _check_stream(dataset, syntax, rows, columns)
    # pydicom drops the bits above Bits Stored silently; they are judged by the caller.
    options: dict[str, Any] = {"correct_unused_bits": False}
    pixels, _ = decoder.as_array(dataset, index=0, **options)
    return pixels


def is_lossy(dataset: Dataset) -> bool:
    """Return whether the pixels were compressed with loss at any time, as far as is known."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return dataset.get("LossyImageCompression") == "01" or syntax in _LOSSY


def _pixel_element(dataset: Dataset) -> str:
    for keyword in _PIXEL_ELEMENTS:
        if keyword in dataset and dataset[keyword].value:
            return keyword
    _check_cut_header(dataset)
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    kind = getattr(sop_class, "name", "") or "unknown SOP class"
    raise ImageError(
        f"the DICOM file ({kind}) holds no pixel data",
        remedy="Pass image objects only, or copy the file again if it should hold a picture",
        kind="no_pixel_data",
    )


def _check_cut_header(dataset: Dataset) -> None:
    """Raise if the last element is shorter than it says."""
    tags = sorted(dataset.keys())
    last: Any = dataset.get_item(tags[-1]) if tags else None
    length = getattr(last, "length", 0)
    if length not in (0, 0xFFFFFFFF) and len(getattr(last, "value", None) or b"") < length:
        raise ImageError(
            "the DICOM file ends inside its header, it is cut off",
            remedy="Copy or download the file again",
            kind="truncated_image",
        )


def _transfer_syntax(dataset: Dataset, keyword: str, notes: Notes) -> uids.UID:
    """Return how the pixel data are encoded, mending a missing or wrong statement."""
    stated = dataset.file_meta.get("TransferSyntaxUID")
    element = dataset[keyword]
    encapsulated = bytes(element.value[:4]) == b"\xfe\xff\x00\xe0" and (
        element.is_undefined_length or stated in _COMPRESSED
    )
    mended = (stated in _COMPRESSED and not encapsulated) or (stated in _NATIVE and encapsulated)
    if stated and not mended:
        return stated

    implicit, little = dataset.original_encoding
    if encapsulated:
        found = _encapsulated_syntax(get_frame(element.value, 0, number_of_frames=1))
    elif not little:
        found = uids.ExplicitVRBigEndian
    else:
        found = uids.ImplicitVRLittleEndian if implicit else uids.ExplicitVRLittleEndian
    if stated or dataset.file_meta or found != uids.ImplicitVRLittleEndian:
        said = f"says {stated.name}" if stated else "is missing"
        notes.warn("transfer_syntax", f"the Transfer Syntax UID {said}; read as {found.name}")
    dataset.file_meta.TransferSyntaxUID = found
    return found


def _encapsulated_syntax(frame: bytes) -> uids.UID:
    """Return a transfer syntax that decodes a frame, by its first markers."""
    if frame.startswith((b"\xff\x4f", b"\x00\x00\x00\x0c\x6a\x50")):
        return uids.JPEG2000
    if not frame.startswith(b"\xff\xd8"):
        return uids.RLELossless
    for code, syntax in (
        (0xF7, uids.JPEGLSNearLossless),
        (0xC3, uids.JPEGLossless),
        (0xC1, uids.JPEGExtended12Bit),
    ):
        if bytes((0xFF, code)) in frame[:4096]:
            return syntax
    return uids.JPEGBaseline8Bit


def _check_length(dataset: Dataset, keyword: str, rows: int, columns: int) -> None:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits = int(dataset.get("BitsAllocated") or 0)
    expected = math.ceil(rows * columns * samples * bits / 8)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        expected = expected // 3 * 2
    actual = len(dataset[keyword].value)
    if actual < expected:
        raise ImageError(
            f"the pixel data hold {actual} of {expected} bytes, the file is cut off",
            remedy="Copy or download the file again",
            kind="truncated_image",
        )


def _check_stream(dataset: Dataset, syntax: uids.UID, rows: int, columns: int) -> None:
    """Check a compressed frame's end and, before memory is given to it, its size."""
    if syntax == uids.RLELossless:
        return  # pydicom compares the decoded length with the header's
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    size = jpeg_size(frame) if syntax in _JPEG else jpeg2000_size(frame)
    if size != (rows, columns):
        raise ImageError(
            f"the header says {rows} x {columns} pixels, the compressed picture has "
            f"{size[0]} x {size[1]}",
            remedy="Export the image again",
            kind="broken_image",
        )
