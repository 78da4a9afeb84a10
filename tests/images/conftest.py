"""A phantom and ways to write it into files."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate


@pytest.fixture
def phantom() -> NDArray[np.uint16]:
    """12-bit values 200 to 3801, [34, 40]; no mirror image or turn of it equals it."""
    rows, columns = np.mgrid[0:34, 0:40]
    values = 400 + 60 * columns + 20 * rows
    values[3:8, 30:36] = 3801  # a side marker, upper right; with it no gray falls on a half
    values[20:24, 5:15] = 200
    return values.astype(np.uint16)


@pytest.fixture
def minmax_of():
    """The definition of the rendering, written the long way."""

    def minmax_of(values: NDArray[Any]) -> NDArray[np.uint8]:
        values = values.astype(np.float64)
        unit = (values - values.min()) / (values.max() - values.min())
        return np.floor(255 * unit + 0.5).astype(np.uint8)

    return minmax_of


@pytest.fixture
def make_dicom():
    """Write an array as DICOM."""

    def make_dicom(
        pixels: NDArray[Any] | None,
        *,
        syntax: uids.UID = uids.ExplicitVRLittleEndian,
        frame: bytes | None = None,
        preamble: bool = True,
        **elements: Any,
    ) -> bytes:
        """Return the bytes of a file; ``frame`` is an encoded picture to wrap for ``syntax``."""
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPClassUID = uids.DigitalXRayImageStorageForPresentation
        dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
        dataset.Modality = "DX"
        dataset.ViewPosition = "PA"
        if pixels is not None:
            bits = 8 * pixels.dtype.itemsize
            dataset.Rows, dataset.Columns = pixels.shape[:2]
            dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
            if pixels.ndim == 3:
                dataset.PlanarConfiguration = 0
            dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
            dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
            if bits == 16 and pixels.dtype.kind == "u" and pixels.max() < 4096:
                dataset.BitsStored, dataset.HighBit = 12, 11
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        if pixels is not None:
            order = ">" if syntax == uids.ExplicitVRBigEndian else "<"
            native = syntax in (
                uids.ImplicitVRLittleEndian,
                uids.ExplicitVRLittleEndian,
                uids.ExplicitVRBigEndian,
                uids.DeflatedExplicitVRLittleEndian,
            )
            raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
            raw += b"\0" * (len(raw) % 2)
            if frame is not None:
                dataset.PixelData = encapsulate([frame])
                dataset["PixelData"].is_undefined_length = True
            elif native:
                dataset.PixelData = raw
            else:
                dataset.PixelData = raw
                dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
                dataset.compress(syntax, generate_instance_uid=False)
            wide = native and frame is None and dataset.BitsAllocated > 8
            dataset["PixelData"].VR = "OW" if wide else "OB"
        file = io.BytesIO()
        if preamble:
            dataset.save_as(file, enforce_file_format=True)
        else:
            del dataset.file_meta
            dataset.save_as(
                file,
                implicit_vr=syntax == uids.ImplicitVRLittleEndian,
                little_endian=syntax != uids.ExplicitVRBigEndian,
            )
        return file.getvalue()

    return make_dicom


@pytest.fixture
def make_file():
    """Write an array or a Pillow image in one of Pillow's formats."""

    def make_file(picture: NDArray[Any] | Image.Image, file_format: str, **options: Any) -> bytes:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        file = io.BytesIO()
        image.save(file, file_format, **options)
        return file.getvalue()

    return make_file


@pytest.fixture
def make_png16():
    """Write 16-bit PNG files of the color types that Pillow does not write."""

    def make_png16(pixels: NDArray[np.uint16], color_type: int) -> bytes:
        rows, columns = pixels.shape[:2]
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

        def chunk(name: bytes, content: bytes) -> bytes:
            body = name + content
            return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

        header = struct.pack(">IIBBBBB", columns, rows, 16, color_type, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(lines))
            + chunk(b"IEND", b"")
        )

    return make_png16
