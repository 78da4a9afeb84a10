"""The elements of a DICOM file that a picture needs, whatever the others are like.

pydicom reads the elements, this file decides where reading stops and goes on: an element that
cannot be read is left out and named, and the values of the others are read when asked for, so
that nothing wrong with an element that nobody needs stops a file. The pixel data are left where
they are; of a deflated file no more is inflated than the header asks for.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from pydicom import Dataset
from pydicom import uid as uids
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag

from llava_rad.errors import ImageError
from llava_rad.images.dicom_values import elements_of, uid_of
from llava_rad.images.integrity import not_whole
from llava_rad.images.limits import MAX_HEADER_BYTES, too_large

_UNDEFINED = 0xFFFFFFFF
_MOST_ELEMENTS = 2**16  # before the pixel data; real headers have some hundreds
_STEP = 2**16  # bytes inflated at once
_DEFLATED_HEADER = 2**20  # bytes of a deflated file in which its header is looked for
_PIXELS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_META = (0x00020002, 0x00020010)  # Media Storage SOP Class UID, Transfer Syntax UID
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_KEYWORDS = (
    # What the object is and shows.
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "PresentationIntentType"),
    *("BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation"),
    *("SeriesDescription", "Laterality", "ImageLaterality"),
    # Pixels.
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "LossyImageCompression"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    *("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    # Their shape.
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    # Grays.
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
    *(
        f"{part}{color}PaletteColorLookupTable{end}"
        for part in ("", "Segmented")
        for color in ("Red", "Green", "Blue")
        for end in ("Descriptor", "Data")
        if not (part and end == "Descriptor")
    ),
    # What is covered.
    *("CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter"),
    *("CenterOfCircularCollimator", "RadiusOfCircularCollimator"),
    *("VerticesOfThePolygonalCollimator", "ShutterPresentationValue"),
    *(
        f"{device}{part}"
        for device in ("Shutter", "Collimator")
        for part in (
            *("Shape", "LeftVerticalEdge", "RightVerticalEdge"),
            *("UpperHorizontalEdge", "LowerHorizontalEdge"),
        )
    ),
    *_FUNCTIONAL_GROUPS,
)
_OVERLAYS = [(0x6000 + group) << 16 for group in range(0, 0x20, 2)]  # bit position, data
_NEEDED = [
    *(cast(int, tag_for_keyword(keyword)) for keyword in _KEYWORDS),
    *(overlay + element for overlay in _OVERLAYS for element in (0x0102, 0x3000)),
]


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data are.

    Attributes:
        keyword: ``"PixelData"``, ``"FloatPixelData"`` or ``"DoubleFloatPixelData"``.
        vr: value representation, or None with Implicit VR.
        start: position of the value.
        length: its bytes as stated, or None if it reaches up to a delimiter.
    """

    keyword: str
    vr: str | None
    start: int
    length: int | None


@dataclass
class DicomFile:
    """What was read of a file.

    Attributes:
        meta: the meta group's Transfer Syntax UID and SOP class, as far as they are there.
        header: the elements that a picture needs; read their values with ``dicom_values``.
        implicit: whether the data set is Implicit VR.
        little_endian: its byte order.
        content: the data set, positioned anywhere.
        data: the bytes of the file, or nothing if they are deflated.
        pixels: the pixel data, or None.
        lost: names of needed elements that could not be read.
        cut: whether the file ends inside an element.
        empty: whether there is no element at all.
        bare: whether there is no meta group.
    """

    meta: Dataset
    header: Dataset
    implicit: bool
    little_endian: bool
    content: "BinaryIO | Inflated"
    data: memoryview
    pixels: PixelElement | None = None
    lost: list[str] = field(default_factory=list)
    cut: bool = False
    empty: bool = True
    bare: bool = False

    def take(self, start: int, length: int) -> memoryview:
        """Return up to ``length`` bytes from ``start``; without a copy if they are in memory."""
        if isinstance(self.content, Inflated):
            return self.content.take(start, length)
        return self.data[start : start + length]


class Inflated:
    """The bytes of a raw deflate stream, inflated as far as they are read.

    Raises:
        ImageError: ``truncated_image`` if the stream is damaged, ``too_large`` if more than
            ``MAX_HEADER_BYTES`` are read through ``read``.
    """

    def __init__(self, stream: bytes | memoryview) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest: bytes | memoryview = stream
        self._kept = bytearray()
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer at the end, or as many as a header may have."""
        end = MAX_HEADER_BYTES - _STEP if size < 0 else self._position + size
        while len(self._kept) < end and (part := self._part(_STEP)):
            self._kept += part
            if len(self._kept) > MAX_HEADER_BYTES:
                raise too_large(f"the header inflates to more than {MAX_HEADER_BYTES} bytes")
        part = bytes(self._kept[self._position : end])
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position; also behind the end, where nothing is read."""
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    @property
    def whole(self) -> bool:
        """Whether the stream was read up to its end mark."""
        return self._inflater.eof

    def take(self, start: int, length: int) -> memoryview:
        """Return up to ``length`` bytes from ``start``, for what follows is of no use."""
        taken = np.empty(length, np.uint8)
        first = self._kept[start : start + length]
        taken[: len(first)] = np.frombuffer(bytes(first), np.uint8)
        filled, behind = len(first), max(0, start - len(self._kept))
        while filled < length and (part := self._part(min(2**20, behind or length - filled))):
            if behind:
                behind -= len(part)
                continue
            taken[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
        return taken[:filled].data

    def _part(self, most: int) -> bytes:
        """Inflate up to ``most`` further bytes; nothing at the end."""
        try:
            while not self._inflater.eof:
                part = self._inflater.decompress(self._rest, most)
                self._rest = self._inflater.unconsumed_tail
                if part or not self._rest:
                    return part
        except zlib.error as error:
            raise not_whole(f"the deflated data cannot be inflated ({error})") from error
        return b""


def read_elements(data: bytes) -> DicomFile:
    """Read the bytes of a DICOM file, with or without preamble and meta group.

    Raises:
        ImageError: see :class:`Inflated`.
    """
    content = BytesIO(data)
    content.seek(132 if data[128:132] == b"DICM" else 0)
    file = _elements(content, memoryview(data), _NEEDED)
    if isinstance(file.content, Inflated):
        if file.pixels is None:
            file.cut |= not file.content.whole
    elif file.pixels is not None:
        _read_behind_pixels(file)
    return file


def read_header(file: BinaryIO, keywords: Sequence[str]) -> Dataset:
    """Read a few elements of an open DICOM file that stand before the pixel data.

    Args:
        file: positioned anywhere; no more of it is read than is needed.
        keywords: of the elements; those that are missing or cannot be read are left out.

    Raises:
        ImageError: see :class:`Inflated`.
    """
    file.seek(0)
    head = file.read(132)
    # "DICM" at the very start: written without its preamble.
    file.seek(132 if head[128:] == b"DICM" else 4 if head[:4] == b"DICM" else 0)
    tags = [cast(int, tag_for_keyword(keyword)) for keyword in keywords]
    return _elements(file, memoryview(b""), tags).header


def _elements(opened: BinaryIO, view: memoryview, tags: list[int]) -> DicomFile:
    """Read the meta group and the elements of these tags, from where the file stands."""
    content: BinaryIO | Inflated = opened
    meta = DicomFile(Dataset(), Dataset(), False, True, content, view)
    _read(meta, _META, until=lambda tag: tag >> 16 != 2)
    syntax = uid_of(meta.header, "TransferSyntaxUID")
    if syntax == uids.DeflatedExplicitVRLittleEndian:
        stream = view[content.tell() :] if view else opened.read(_DEFLATED_HEADER)
        content = Inflated(stream)
    # A command group (PS3.7) stands before some data sets that were saved from the network.
    start = content.tell()
    if content.read(2) == b"\0\0" and start:
        content.seek(start)
        command = DicomFile(Dataset(), Dataset(), True, True, content, view)
        _read(command, (), until=lambda tag: tag >> 16 != 0)
        start = content.tell()
    content.seek(start)
    implicit, little = _encoding(content.read(6), syntax)
    content.seek(start)
    file = DicomFile(meta.header, Dataset(), implicit, little, content, view)
    file.bare = meta.empty
    _read(file, tags)
    return file


def _encoding(first: bytes, syntax: str | None) -> tuple[bool, bool]:
    """Whether the data set is Implicit VR, and little endian, by its first tag and VR."""
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    if syntax is None:
        # Big endian is always explicit; read as little endian its group 0008 is 0800.
        return not explicit, not (explicit and first[:1] == b"\0")
    return not explicit, syntax != uids.ExplicitVRBigEndian


def _read(
    file: DicomFile, tags: tuple[int, ...] | list[int], until: Callable[[int], bool] | None = None
) -> None:
    """Add the elements from the content's position up to the pixel data or to ``until``."""
    content = file.content
    found: dict[BaseTag, Any] = {}
    value = {"tag": 0, "start": -1, "length": 0}
    stopped = False
    count = 0

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal stopped, count
        count += 1
        if count > _MOST_ELEMENTS:  # zeros, for instance, read as elements without a value
            raise ImageError(
                f"more than {_MOST_ELEMENTS} elements stand where the pixel data should be",
                remedy="Copy or export the file again",
                kind="broken_image",
            )
        stopped = until is not None and until(tag)
        if not stopped:
            file.empty = False
            value.update(tag=int(tag), start=content.tell(), length=length)
            if tag in _PIXELS and until is None:
                stopped = True
                stated = None if length == _UNDEFINED else length
                file.pixels = PixelElement(_PIXELS[int(tag)], vr, content.tell(), stated)
        return stopped

    while not stopped:
        before = value["start"]
        try:
            for element in data_element_generator(
                cast(BinaryIO, content),
                file.implicit,
                file.little_endian,
                stop_when=stop,
                specific_tags=list(tags) or [0xFFFFFFFF],
            ):
                if element.tag in tags:
                    found[element.tag] = element
            break
        except ImageError:
            raise
        except Exception:  # whatever pydicom raises for one element
            if value["start"] == before:
                file.cut = True  # a header of an element that is not whole
                break
            tag = value["tag"]
            if tag in tags and BaseTag(tag) not in found:
                file.lost.append(keyword_for_tag(tag) or f"({tag >> 16:04x},{tag & 0xFFFF:04x})")
            if value["length"] != _UNDEFINED:
                content.seek(value["start"] + value["length"])
            elif not _seek_behind(file, value["start"], tag):
                file.cut = True
                break
    if not stopped and value["length"] not in (0, _UNDEFINED):
        end = value["start"] + value["length"]
        content.seek(end - 1)
        # Nothing there, or a few bytes more that are no element.
        file.cut |= len(content.read(9)) not in (1, 9)
    found = {**elements_of(file.header), **found}
    header = Dataset(found)
    header.set_original_encoding(file.implicit, file.little_endian, _charset(header))
    # Known by now, or not to be known; no picture depends on it.
    header.pop("SpecificCharacterSet", None)
    file.lost = [keyword for keyword in file.lost if keyword != "SpecificCharacterSet"]
    file.header = header


def _seek_behind(file: DicomFile, start: int, tag: int) -> bool:
    """Go to the element that follows one of undefined length; False if none is found."""
    order: Literal["little", "big"] = "little" if file.little_endian else "big"
    delimiter = b"".join(n.to_bytes(2, order) for n in (0xFFFE, 0xE0DD)) + bytes(4)
    file.content.seek(start)
    rest = file.content.read()
    place = rest.find(delimiter)
    while place >= 0:
        head = rest[place + 8 : place + 14]
        group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
        fits = file.implicit or (head[4:6].isalpha() and head[4:6].isupper())
        if len(head) == 6 and fits and tag < (group << 16 | element) <= max(_PIXELS):
            file.content.seek(start + place + 8)
            return True
        place = rest.find(delimiter, place + 1)
    return False


def _read_behind_pixels(file: DicomFile) -> None:
    """Read elements that stand, out of order, behind pixel data of stated length."""
    pixels = cast(PixelElement, file.pixels)
    if pixels.length is None:
        return
    cut = file.cut
    file.content.seek(pixels.start + pixels.length)
    _read(file, [tag for tag in _NEEDED if tag not in file.header])
    file.pixels, file.cut = pixels, cut


def _charset(header: Dataset) -> Any:
    """The encodings of the header's texts, the default where they are not understood."""
    element = header.get_item("SpecificCharacterSet")
    try:
        names = bytes(element.value or b"").decode("ascii").split("\\")
        return convert_encodings([name.strip() for name in names])
    except Exception:  # no such element, or whatever pydicom raises for rubbish
        return default_encoding
