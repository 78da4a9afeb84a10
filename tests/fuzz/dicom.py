"""DICOM files: every transfer syntax that can be written here, damaged element by element."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import Files, Kind, only_file
from fuzz.rasters import check_radiograph, damaged_jpeg
from fuzz.raw import damaged, number

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_VRS = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN"),
    *(b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"XX", b"\0\0", *_LONG),
)
_TEXTS = (
    *(b"", b" ", b"\0", b"0", b"1", b"-1", b"1e999", b"-1e999", b"nan", b"inf", b"1e-320"),
    *(b"99999999999999", b"5" * 3000, b"1\\2", b"\\\\\\", b"4096\\0\\16", b"\xff\xfe\xfd"),
    *(b"ISO_IR 192", b"ISO 2022 IR 87", b"UTF\x00-8", b"\x1b$B", b"MONOCHROME1", b"RGB"),
    *(b"PALETTE COLOR", b"YBR_FULL_422", b"CIRCULAR\\RECTANGULAR", b"POLYGONAL", b"a" * 70000),
)
# Elements that the reader looks at, and what becomes of them decides about the picture.
_TAGS = (
    (0x0008, 0x0005, b"CS"),  # Specific Character Set
    (0x0008, 0x0008, b"CS"),
    (0x0018, 0x1164, b"DS"),  # Imager Pixel Spacing
    (0x0018, 0x1600, b"CS"),  # Shutter Shape
    (0x0018, 0x1602, b"IS"),
    (0x0018, 0x1604, b"IS"),
    (0x0018, 0x1606, b"IS"),
    (0x0018, 0x1608, b"IS"),
    (0x0018, 0x1610, b"IS"),
    (0x0018, 0x1612, b"IS"),
    (0x0018, 0x1620, b"IS"),  # vertices of a polygon
    (0x0018, 0x1702, b"IS"),  # collimator
    (0x0018, 0x5101, b"CS"),  # View Position
    (0x0020, 0x0020, b"CS"),  # Patient Orientation
    (0x0028, 0x0002, b"US"),
    (0x0028, 0x0004, b"CS"),
    (0x0028, 0x0006, b"US"),
    (0x0028, 0x0008, b"IS"),  # Number of Frames
    (0x0028, 0x0010, b"US"),
    (0x0028, 0x0011, b"US"),
    (0x0028, 0x0030, b"DS"),
    (0x0028, 0x0034, b"IS"),  # Pixel Aspect Ratio
    (0x0028, 0x0100, b"US"),
    (0x0028, 0x0101, b"US"),
    (0x0028, 0x0102, b"US"),
    (0x0028, 0x0103, b"US"),
    (0x0028, 0x0106, b"US"),
    (0x0028, 0x0107, b"US"),
    (0x0028, 0x0120, b"US"),  # padding
    (0x0028, 0x0121, b"US"),
    (0x0028, 0x1050, b"DS"),
    (0x0028, 0x1051, b"DS"),
    (0x0028, 0x1052, b"DS"),
    (0x0028, 0x1053, b"DS"),
    (0x0028, 0x1056, b"CS"),
    (0x0028, 0x1101, b"US"),  # palette
    (0x0028, 0x1201, b"OW"),
    (0x0028, 0x3000, b"SQ"),  # Modality LUT
    (0x0028, 0x3010, b"SQ"),  # VOI LUT
    (0x2050, 0x0020, b"CS"),  # Presentation LUT Shape
    (0x5200, 0x9229, b"SQ"),  # functional groups
    (0x5200, 0x9230, b"SQ"),
    (0x6000, 0x0010, b"US"),  # overlay
    (0x6000, 0x3000, b"OW"),
    (0x7FE0, 0x0008, b"OF"),  # float pixel data
    (0x7FE0, 0x0009, b"OD"),
    (0x7FE0, 0x0010, b"OW"),
)


@dataclass
class _Element:
    start: int  # of the tag
    vr: bytes  # nothing in implicit files
    length_at: int
    length_size: int
    value_at: int
    length: int


@dataclass
class _Layout:
    """How a data set is written: byte order of struct, and whether it states VRs."""

    order: str
    explicit: bool

    def written(self, group: int, element: int, vr: bytes, value: bytes) -> bytes:
        tag = struct.pack(f"{self.order}HH", group, element)
        if not self.explicit:
            return tag + struct.pack(f"{self.order}I", len(value)) + value
        if vr in _LONG:
            return tag + vr + b"\0\0" + struct.pack(f"{self.order}I", len(value)) + value
        return tag + vr + struct.pack(f"{self.order}H", len(value) % 65536) + value


def _layout(syntax: bytes) -> _Layout:
    if syntax == b"1.2.840.10008.1.2":
        return _Layout("<", False)
    return _Layout(">" if syntax == b"1.2.840.10008.1.2.2" else "<", True)


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Preamble with meta group, data set, transfer syntax; no meta where there is none."""
    if data[128:132] != b"DICM":
        return b"", data, b"1.2.840.10008.1.2" if not data[4:6].isalpha() else b""
    position, syntax = 132, b""
    while position + 8 <= len(data) and data[position : position + 2] == b"\x02\x00":
        long = data[position + 4 : position + 6] in _LONG
        at = position + (12 if long else 8)
        length = int.from_bytes(data[position + (8 if long else 6) : at], "little")
        if data[position + 2 : position + 4] == b"\x10\x00":
            syntax = data[at : at + length].strip(b"\0 ")
        position = at + length
    return data[:position], data[position:], syntax


def _elements(data: bytes, layout: _Layout) -> list[_Element]:
    """The elements of the top level up to the first of undefined length."""
    found = []
    position = 0
    while position + 8 <= len(data):
        vr = data[position + 4 : position + 6] if layout.explicit else b""
        size, length_at = (2, position + 6) if layout.explicit else (4, position + 4)
        if vr in _LONG:
            size, length_at = 4, position + 8
        value_at = length_at + size
        order = "big" if layout.order == ">" else "little"
        length = int.from_bytes(data[length_at:value_at], order)  # type: ignore[arg-type]
        found.append(_Element(position, vr, length_at, size, value_at, length))
        if length == 0xFFFFFFFF or value_at + length > len(data):
            break
        position = value_at + length
    return found


def _odd_value(rng: Random, vr: bytes, order: str) -> bytes:
    if vr in (b"US", b"SS"):
        return b"".join(
            number(rng, 2).to_bytes(2, "big" if order == ">" else "little")
            for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4000)))
        )
    if vr in (b"FL", b"FD", b"OF", b"OD") and rng.random() < 0.7:
        code = f"{order}{'f' if vr in (b'FL', b'OF') else 'd'}"
        return struct.pack(code, rng.choice((0.0, -1.5, 3e38, float("nan"), float("inf"))))
    if vr == b"SQ" and rng.random() < 0.7:
        return _deep(rng.choice((1, 3, 200, 3000)))
    if rng.random() < 0.3:
        return rng.randbytes(rng.choice((1, 2, 3, 6, 8, 100)))
    text = rng.choice(_TEXTS)
    return text + b" " * (len(text) % 2)


def _deep(depth: int) -> bytes:
    """Sequences within sequences, little endian and explicit."""
    opening = b"\x40\x00\x00\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return opening * depth + closing * depth


def _with_one_change(data: bytes, layout: _Layout, rng: Random) -> bytes:
    """A data set with one element changed, added, doubled, moved or left out."""
    elements = _elements(data, layout)
    if not elements:
        return damaged(data, rng)
    chosen = rng.choice(elements)
    image = [e for e in elements if data[e.start : e.start + 2] in (b"\x28\0", b"\0\x28")]
    if image and rng.random() < 0.6:
        chosen = rng.choice(image)
    end = chosen.value_at + (0 if chosen.length == 0xFFFFFFFF else chosen.length)
    order = "big" if layout.order == ">" else "little"
    way = rng.randrange(8)
    if way == 0:  # another value, its length right
        group, element = struct.unpack_from(f"{layout.order}HH", data, chosen.start)
        new = layout.written(group, element, chosen.vr, _odd_value(rng, chosen.vr, layout.order))
        return data[: chosen.start] + new + data[end:]
    if way == 1:  # another length, its value as it is
        length = number(rng, chosen.length_size).to_bytes(chosen.length_size, order)  # type: ignore[arg-type]
        return data[: chosen.length_at] + length + data[chosen.value_at :]
    if way == 2 and layout.explicit:
        return data[: chosen.start + 4] + rng.choice(_VRS) + data[chosen.start + 6 :]
    if way == 3:
        return data[: chosen.start] + data[end:]
    if way == 4:
        return data[:end] + data[chosen.start : end] + data[end:]
    if way == 5:  # moved to the end of the header
        moved = data[chosen.start : end]
        return (
            data[: chosen.start]
            + data[end : elements[-1].start]
            + moved
            + (data[elements[-1].start :])
        )
    if way == 6 and chosen.length not in (0, 0xFFFFFFFF):  # bytes of a value
        value = damaged(data[chosen.value_at : end], rng)
        return data[: chosen.value_at] + value + data[end:]
    group, element, vr = rng.choice(_TAGS)
    before = next(
        (
            e.start
            for e in elements
            if struct.unpack_from(f"{layout.order}HH", data, e.start) > (group, element)
        ),
        elements[-1].start,
    )
    new = layout.written(group, element, vr, _odd_value(rng, vr, layout.order))
    return data[:before] + new + data[before:]


def _mutate(files: Files, rng: Random) -> Files:
    ((name, data),) = files.items()
    way = rng.random()
    if way < 0.3:
        return {name: damaged(data, rng, head=1500)}
    meta, body, syntax = _split(data)
    deflated = syntax == b"1.2.840.10008.1.2.1.99"
    if deflated:
        body = zlib.decompress(body, -15)
    if way < 0.4 and b"\xff\xd8\xff" in body:  # the picture inside
        start = body.index(b"\xff\xd8\xff")
        body = body[:start] + damaged_jpeg(body[start:], rng)
    elif way < 0.45 and meta:
        return {name: damaged(meta, rng, head=400) + body}
    elif way < 0.5 and meta and not deflated:  # another transfer syntax than it says
        other = rng.choice((b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.4.90", b"1.2.3", b"\0" * 17))
        meta = meta.replace(syntax, (other + b"\0" * 64)[: len(syntax)])
    else:
        for _ in range(rng.choice((1, 1, 2, 3))):
            body = _with_one_change(body, _layout(syntax), rng)
    if deflated:
        # Sometimes with a tail that nobody declared.
        body = _deflated(body + bytes(300_000_000 if rng.random() < 0.02 else 0))
    elif syntax == b"1.2.840.10008.1.2.1" and rng.random() < 0.002:
        return {name: _large(meta, body)}
    return {name: meta + body}


def _deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def _large(meta: bytes, body: bytes) -> bytes:
    """As large a picture as is read, in a small file: 8000 x 8000, nearly all of it black."""
    pixels = body.rfind(b"\xe0\x7f\x10\0O")
    header = body[:pixels]
    for element in (b"\x28\0\x10\0US\2\0", b"\x28\0\x11\0US\2\0"):
        at = header.find(element) + len(element)
        header = header[:at] + (8000).to_bytes(2, "little") + header[at + 2 :]
    size = 8000 * 8000 * 2
    values = b"\xe0\x7f\x10\0OW\0\0" + size.to_bytes(4, "little") + b"\1\2" + bytes(size - 2)
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99")
    return meta + _deflated(header + values)


def _read(folder: Path, rng: Random) -> None:
    from llava_rad.images import load_mask, load_radiograph

    file = only_file(folder)
    frame = rng.choice((1, None, None, None, 2))
    if rng.random() < 0.1:
        mask = load_mask(file)
        assert mask.ndim == 2
        return
    found = load_radiograph(file, rendering=rng.choice(("minmax", "voi")), frame=frame)
    check_radiograph(found)


def _ready() -> None:
    import pydicom.pixels  # noqa: F401


def _phantom(kind: str) -> Any:
    import numpy as np

    rows, columns = np.mgrid[0:48, 0:56]
    values = 400 + 40 * columns + 20 * rows
    values[3:8, 46:52] = 3801
    if kind == "u1":
        return (values // 16).astype(np.uint8)
    if kind == "rgb":
        return np.stack([(values // 16).astype(np.uint8)] * 3, axis=-1)
    if kind == "rgb16":
        return np.stack([values.astype(np.uint16)] * 3, axis=-1)
    return values.astype({"u2": np.uint16, "i2": np.int16, "u4": np.uint32}[kind])


def _written(pixels: Any, syntax: Any, frame: bytes | None = None, **elements: Any) -> bytes:
    """An array, or a picture encoded for the syntax, as a DICOM file."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    data.Modality, data.ViewPosition, data.ImageLaterality = "DX", "PA", "U"
    data.SpecificCharacterSet = "ISO_IR 100"
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    stored = 12 if pixels.dtype.kind == "u" and bits == 16 else bits
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, stored, stored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.WindowCenter, data.WindowWidth = 2000, 3000
    data.RescaleSlope, data.RescaleIntercept = 1, -100
    data.PixelSpacing = [0.2, 0.2]
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    native = syntax in (
        *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
        uid.DeflatedExplicitVRLittleEndian,
    )
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if frame is not None:
        data.PixelData = encapsulate([frame])
        data["PixelData"].is_undefined_length = True
    elif not native:
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.compress(syntax, generate_instance_uid=False)
    data["PixelData"].VR = "OW" if native and bits > 8 else "OB"
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _lut(values: int) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor = [values, 0, 16]
    item.add_new(0x00283006, "US", [16 * n for n in range(values)])
    return Sequence([item])


def _seeds() -> dict[str, Files]:
    import numpy as np
    from PIL import Image
    from pydicom import uid

    u1, u2 = _phantom("u1"), _phantom("u2")
    floats = u2.astype(np.float32) / 7

    def encoded(name: str, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(u1).save(file, name, **options)
        return file.getvalue()

    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{color}PaletteColorLookupTableData"] = np.arange(256, dtype="<u2").tobytes()
    explicit = uid.ExplicitVRLittleEndian
    shutter = {
        "ShutterShape": ["CIRCULAR", "RECTANGULAR"],
        "CenterOfCircularShutter": [20, 20],
        "RadiusOfCircularShutter": 18,
        "ShutterLeftVerticalEdge": 4,
        "PixelAspectRatio": [2, 1],
        "ShutterRightVerticalEdge": 50,
        "ShutterUpperHorizontalEdge": 3,
        "ShutterLowerHorizontalEdge": 44,
    }
    made = {
        "explicit": _written(u2, explicit),
        "implicit": _written(u2, uid.ImplicitVRLittleEndian),
        "big": _written(u2, uid.ExplicitVRBigEndian),
        "deflated": _written(u2, uid.DeflatedExplicitVRLittleEndian),
        "signed": _written(_phantom("i2"), explicit, PixelPaddingValue=400),
        "wide": _written(_phantom("u4"), explicit),
        "color": _written(_phantom("rgb"), explicit),
        "palette": _written(u1, explicit, **palette),
        "shutter": _written(u2, explicit, **shutter),
        "voi-lut": _written(u2, explicit, VOILUTSequence=_lut(4096)),
        "modality-lut": _written(u2, explicit, ModalityLUTSequence=_lut(4096)),
        "rle": _written(u2, uid.RLELossless),
        "rle-color": _written(_phantom("rgb"), uid.RLELossless),
        "jpeg-ls": _written(u2, uid.JPEGLSLossless),
        "jpeg-2000": _written(u2, uid.JPEG2000Lossless),
        "jpeg-2000-8": _written(u1, uid.JPEG2000Lossless),
        "jpeg": _written(u1, uid.JPEGBaseline8Bit, encoded("JPEG")),
        "frames": _written(np.concatenate([u2, u2]), explicit, Rows=48, NumberOfFrames=2),
    }
    made["bare"] = made["explicit"][made["explicit"].index(b"\x08\0\x05\0") :]
    made["float"] = _float_pixels(made["explicit"], floats)
    seeds = {name: {"picture.dcm": data} for name, data in made.items()}
    return {**seeds, **_installed_files()}


def _float_pixels(data: bytes, values: Any) -> bytes:
    """The same file with Float Pixel Data in place of its pixels."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data))
    del dataset.PixelData
    dataset.BitsAllocated = dataset.BitsStored = 32
    dataset.HighBit = 31
    dataset.FloatPixelData = values.astype("<f4").tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _installed_files() -> dict[str, Files]:
    """pydicom's own small test files, those that are pictures."""
    import pydicom.data

    from llava_rad.errors import ImageError
    from llava_rad.images import load_radiograph

    found: dict[str, Files] = {}
    folder = Path(pydicom.data.__file__).parent / "test_files"
    for path in sorted(folder.glob("*.dcm")):
        if path.stat().st_size > 150_000:
            continue
        data = path.read_bytes()
        try:
            load_radiograph(data)
        except ImageError:
            continue
        found[path.stem] = {"picture.dcm": data}
    return found


DICOM = Kind("dicom", _seeds, _mutate, _read, _ready)
