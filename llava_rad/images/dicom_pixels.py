"""The stored values of a DICOM file, whatever they are wrapped in."""

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom import uid as uids
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from llava_rad.errors import ImageError
from llava_rad.extras import command
from llava_rad.images import jpeg_decoder
from llava_rad.images.dicom_elements import DicomFile, Inflated, PixelElement
from llava_rad.images.dicom_values import (
    code_of,
    integer_of,
    label,
    required_integer,
    text_of,
    uid_of,
    value_of,
)
from llava_rad.images.frames import chosen_frame
from llava_rad.images.integrity import not_whole
from llava_rad.images.jpeg2000_stream import check_jpeg2000
from llava_rad.images.jpeg_stream import check_jpeg
from llava_rad.images.limits import MIN_SIDE, check_size
from llava_rad.images.radiograph import Notes
from llava_rad.images.run_lengths import check_rle_frame

_NATIVE = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
)
_JPEG = (*uids.JPEGTransferSyntaxes, *uids.JPEGLSTransferSyntaxes)
_HTJ2K = (uids.HTJ2K, uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL)
_JPEG_2000 = (*uids.JPEG2000TransferSyntaxes, *_HTJ2K)
_COMPRESSED = (*_JPEG, *_JPEG_2000, uids.RLELossless)
_GROUP = 2  # bytes of a group number
_AFTER_PIXELS = (b"\xfa\xff", b"\xfc\xff")  # groups of signatures and of padding
_CHARLS, _GPL = "pyjpegls", "pylibjpeg"
_LOSSY = (
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLSNearLossless,
)
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
)


@dataclass(frozen=True)
class StoredPixels:
    """One decoded frame.

    Attributes:
        values: [rows, columns], or [rows, columns, 3] of the photometric interpretation's
            channels; the bits above Bits Stored are as the file has them. May be read-only.
        photometric: Photometric Interpretation, empty if the file states none that is known.
        bits_stored: as stated.
        syntax: how the pixel data are encoded.
    """

    values: NDArray[np.generic]
    photometric: str
    bits_stored: int
    syntax: uids.UID


def read_stored(
    file: DicomFile, notes: Notes, frame: int | None, *, smallest: int = MIN_SIDE
) -> StoredPixels:
    """Decode the pixel data.

    Args:
        file: see ``dicom_elements``.
        notes: receives facts and warnings.
        frame: counted from 1; None for the only one.
        smallest: see ``check_size``.

    Raises:
        ImageError: ``no_pixel_data``, ``multi_frame``, ``too_small``, ``too_large``,
            ``truncated_image``, ``unsupported_encoding`` or ``broken_image``.
    """
    pixels = _pixel_element(file)
    header = file.header
    frames, index = _frames(header, frame, notes)
    rows, columns = (required_integer(header, keyword) for keyword in ("Rows", "Columns"))
    check_size(rows, columns, smallest=smallest)

    syntax = _transfer_syntax(file, pixels, notes)
    notes.facts["transfer_syntax"] = syntax.name
    photometric = (text_of(header, "PhotometricInterpretation") or "").upper()
    photometric = photometric if photometric in _PHOTOMETRIC else ""
    notes.facts["photometric_interpretation"] = photometric
    if not photometric:
        said = code_of(header, "PhotometricInterpretation") or "missing"
        raise ImageError(
            f"Photometric Interpretation is {said}, so it is not known which values are bright",
            remedy="Correct Photometric Interpretation (0028,0004) in the file",
            kind="unsupported_encoding",
        )
    samples = integer_of(header, "SamplesPerPixel") or 1
    if samples not in (1, 3):
        raise ImageError(
            f"{label('SamplesPerPixel')} is {samples}, only 1 and 3 are known",
            remedy="Export the image again",
            kind="unsupported_encoding",
        )
    allocated = required_integer(header, "BitsAllocated")
    integers = pixels.keyword == "PixelData"
    stored = required_integer(header, "BitsStored") if integers else allocated
    notes.facts.update(bits_allocated=allocated, bits_stored=stored, lossy=is_lossy(file, syntax))
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "photometric_interpretation": photometric,
        "number_of_frames": frames,
        "pixel_keyword": pixels.keyword,
        "pixel_vr": pixels.vr or "OW",
        # pydicom drops the bits above Bits Stored silently; they are judged by the caller.
        "correct_unused_bits": False,
        "allow_excess_frames": False,
    }
    if integers:
        options["pixel_representation"] = required_integer(header, "PixelRepresentation")
    if samples == 3:
        options["planar_configuration"] = required_integer(header, "PlanarConfiguration")
    decoder = _decoder(syntax)
    source: memoryview | BinaryIO
    if syntax in _NATIVE:
        source, index = _native_source(file, pixels, index, options)
        options["view_only"] = True
    else:
        source = _encapsulated_source(file, pixels)
        offsets = [value_of(header, keyword) for keyword in _OFFSETS]
        if all(offsets):
            options["extended_offsets"] = tuple(offsets)
        extended = options.get("extended_offsets")
        found = get_frame(source, index, number_of_frames=frames, extended_offsets=extended)
        _check_stream(found, syntax, rows, columns)
        del found
    # Colors stay as they are: of YBR the first channel is the luma that is wanted.
    values, properties = _decode(decoder, source, index, syntax, options)
    photometric = str(properties["photometric_interpretation"]).replace("_COLOR", " COLOR")
    return StoredPixels(values, photometric, stored, syntax)


def _decode(
    decoder: Any,
    source: memoryview | BinaryIO,
    index: int,
    syntax: uids.UID,
    options: dict[str, Any],
) -> tuple[NDArray[np.generic], dict[str, Any]]:
    """Return what pydicom's decoder makes of a frame."""
    if syntax in _JPEG:
        # The same decoder whatever else is installed, which pydicom might take before it.
        plugin = _CHARLS if syntax in uids.JPEGLSTransferSyntaxes else jpeg_decoder.NAME
        start = 0 if isinstance(source, memoryview) else source.tell()
        try:
            return decoder.as_array(
                source, index=index, raw=True, decoding_plugin=plugin, **options
            )
        except RuntimeError as error:
            # CharLS refuses damaged data; pylibjpeg, which may be tried next, takes them.
            if "Invalid JPEG-LS stream" in str(error):
                raise not_whole("the JPEG-LS data do not fit the number of pixels") from error
            if _GPL not in decoder.available_plugins:
                raise ImageError(
                    f"the default decoder of {syntax.name} cannot read this stream",
                    remedy=f"Try the second one: {command('dicom-gpl')}",
                    kind="unsupported_encoding",
                ) from error
        if not isinstance(source, memoryview):
            source.seek(start)
    return decoder.as_array(source, index=index, raw=True, **options)


def is_lossy(file: DicomFile, syntax: uids.UID) -> bool:
    """Return whether the pixels were compressed with loss at any time, as far as is known."""
    return text_of(file.header, "LossyImageCompression") == "01" or syntax in _LOSSY


def _pixel_element(file: DicomFile) -> PixelElement:
    if file.pixels is not None and file.pixels.length != 0:
        return file.pixels
    if file.cut:
        raise ImageError(
            "the DICOM file ends inside its header, it is cut off",
            remedy="Copy or download the file again",
            kind="truncated_image",
        )
    sop_class = uid_of(file.header, "SOPClassUID") or uid_of(file.meta, "MediaStorageSOPClassUID")
    kind = uids.UID_dictionary.get(sop_class or "", ("unknown SOP class",))[0]
    raise ImageError(
        f"the DICOM file ({kind}) holds no pixel data",
        remedy="Pass image objects only, or copy the file again if it should hold a picture",
        kind="no_pixel_data",
    )


def _frames(header: Dataset, frame: int | None, notes: Notes) -> tuple[int, int]:
    """Return the number of frames and the index of the one to read."""
    frames = integer_of(header, "NumberOfFrames")
    if frames is None or frames < 1:
        if value_of(header, "NumberOfFrames") is not None:
            said = "unreadable" if frames is None else frames
            notes.warn("number_of_frames", f"Number of Frames is {said}; read as 1")
        frames = 1
    return frames, chosen_frame(frames, frame)


def _transfer_syntax(file: DicomFile, pixels: PixelElement, notes: Notes) -> uids.UID:
    """Return how the pixel data are encoded, mending a missing or wrong statement."""
    said = uid_of(file.meta, "TransferSyntaxUID")
    stated = uids.UID(said) if said else None
    encapsulated = bytes(file.take(pixels.start, 4)) == _ITEM and (
        pixels.length is None or stated in _COMPRESSED
    )
    mended = (stated in _COMPRESSED and not encapsulated) or (stated in _NATIVE and encapsulated)
    if stated and not mended:
        return stated

    if encapsulated:
        found = _encapsulated_syntax(bytes(b"".join(_fragments(file, pixels)[:1])[:4096]))
    elif not file.little_endian:
        found = uids.ExplicitVRBigEndian
    else:
        found = uids.ImplicitVRLittleEndian if file.implicit else uids.ExplicitVRLittleEndian
    if stated or not file.bare or found != uids.ImplicitVRLittleEndian:
        known = stated.name if stated else ""
        said = f"says {known}" if stated else "is missing"
        notes.warn("transfer_syntax", f"the Transfer Syntax UID {said}; read as {found.name}")
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
        if bytes((0xFF, code)) in frame:
            return syntax
    return uids.JPEGBaseline8Bit


def _decoder(syntax: uids.UID) -> Any:
    """Return pydicom's decoder.

    Raises:
        ImageError: ``unsupported_encoding`` with the UID and, where one can be installed, the
            command for it.
    """
    named = f"{syntax.name} ({syntax})" if syntax.name != syntax else f"transfer syntax {syntax}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"pixel data in {named} cannot be decoded",
            remedy="Convert the file to Explicit VR Little Endian with a DICOM toolkit",
            kind="unsupported_encoding",
        ) from None
    if syntax in uids.JPEGTransferSyntaxes:
        jpeg_decoder.register(decoder)
    if not decoder.is_available:
        packages = "pylibjpeg pylibjpeg-openjpeg"
        if syntax in uids.JPEGLSTransferSyntaxes:
            packages = "pyjpegls"
        raise ImageError(
            f"no decoder for {named} is installed",
            remedy=f"Install it: pip install {packages}",
            kind="unsupported_encoding",
        )
    return decoder


def _native_source(
    file: DicomFile, pixels: PixelElement, index: int, options: dict[str, Any]
) -> tuple[memoryview, int]:
    """Return uncompressed pixel data as far as they are needed, and the frame's index in them.

    Raises:
        ImageError: ``truncated_image`` if they are shorter than the header says.
    """
    if pixels.length is None:
        raise ImageError(
            "the length of the pixel data is not stated",
            remedy="Export the image again",
            kind="broken_image",
        )
    bits = options["bits_allocated"] * options["samples_per_pixel"]
    half = options["photometric_interpretation"] == "YBR_FULL_422"
    if half and pixels.length * 8 >= options["rows"] * options["columns"] * bits:
        options["photometric_interpretation"], half = "YBR_FULL", False  # they are not subsampled
    frame_bits = options["rows"] * options["columns"] * bits
    frame_bits = frame_bits // 3 * 2 if half else frame_bits
    start, frames = pixels.start, options["number_of_frames"]
    if isinstance(file.content, Inflated) and frame_bits % 8 == 0:
        start, frames, index = start + index * frame_bits // 8, 1, 0
    expected = math.ceil(frame_bits * frames / 8)
    stated = max(0, pixels.length - (start - pixels.start))
    wanted = min(stated, expected + expected % 2)
    source = file.take(start, wanted + _GROUP * (wanted == stated))
    if isinstance(file.content, Inflated):
        _check_what_follows(source[wanted:])
    source = source[:wanted]
    if len(source) < expected:
        raise ImageError(
            f"the pixel data hold {len(source)} of {expected} bytes, the file is cut off",
            remedy="Copy or download the file again",
            kind="truncated_image",
        )
    options["number_of_frames"] = frames
    return source, index


def _check_what_follows(group: memoryview) -> None:
    """Check that deflated data end with the pixels; when damaged they inflate to more or less."""
    if len(group) == _GROUP and bytes(group) not in _AFTER_PIXELS:
        raise not_whole("the deflated data hold more than the pixels")


def _encapsulated_source(file: DicomFile, pixels: PixelElement) -> BinaryIO:
    """Return a file object that stands before the compressed frames.

    Raises:
        ImageError: see ``_fragments``.
    """
    _fragments(file, pixels)
    if pixels.length is not None:
        return BytesIO(file.take(pixels.start, pixels.length))
    file.content.seek(pixels.start)
    return cast(BinaryIO, file.content)


def _fragments(file: DicomFile, pixels: PixelElement) -> list[memoryview]:
    """Return the compressed fragments, without the offset table (PS3.5 A.4).

    Raises:
        ImageError: ``truncated_image`` if a fragment or the delimiter is missing.
    """
    end = len(file.data) if pixels.length is None else pixels.start + pixels.length
    position = pixels.start
    fragments: list[memoryview] = []
    while position + 8 <= min(end, len(file.data)):
        item, length = struct.unpack_from("<4sI", file.data, position)
        position += 8
        if item == _DELIMITER:
            return fragments[1:]
        if item != _ITEM or position + length > len(file.data):
            break
        fragments.append(file.data[position : position + length])
        position += length
    if pixels.length is not None and position == end and fragments:
        return fragments[1:]
    raise ImageError(
        "the file ends inside the compressed pixel data, it is cut off or damaged",
        remedy="Copy or download the file again",
        kind="truncated_image",
    )


def _check_stream(frame: bytes, syntax: uids.UID, rows: int, columns: int) -> None:
    """Check that a compressed frame is whole and, before memory is given to it, its size."""
    if syntax == uids.RLELossless:
        check_rle_frame(frame, rows * columns)
        return
    size = check_jpeg(frame) if syntax in _JPEG else check_jpeg2000(frame)
    if size != (rows, columns):
        raise ImageError(
            f"the header says {rows} x {columns} pixels, the compressed picture has "
            f"{size[0]} x {size[1]}",
            remedy="Export the image again",
            kind="broken_image",
        )
