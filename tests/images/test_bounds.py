"""Memory: at most four times the decoded pixels, and no more inflated than the header declares."""

import io
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import uid as uids

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph
from llava_rad.images.dicom_elements import Inflated

SIDE = 1024
DEFLATED = uids.DeflatedExplicitVRLittleEndian


# Beside the pictures there are blocks and tables. Small blocks, so that they do not hide a copy.
TABLES = 2**21


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("llava_rad.images.photometric._BLOCK", 2**13)


def gradient():
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return ((3 * rows + 5 * columns) % 4001).astype(np.uint16)


def peak_of(data, **options):
    """Bytes held at most while reading, the file's own included."""
    tracemalloc.start()
    try:
        load_radiograph(bytes(data), **options)
        return tracemalloc.get_traced_memory()[1] + len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize(
    "syntax", [uids.ExplicitVRLittleEndian, DEFLATED, uids.ExplicitVRBigEndian]
)
@pytest.mark.parametrize(
    "pixels",
    [
        gradient(),
        (gradient() // 16).astype(np.uint8),
        gradient().astype(np.int16) - 2000,
        gradient().astype(np.uint32) * 1000,
        np.repeat(gradient()[..., None], 3, axis=2),
        np.repeat((gradient() // 16).astype(np.uint8)[..., None], 3, axis=2),
    ],
    ids=["uint16", "uint8", "int16", "uint32", "rgb16", "rgb8"],
)
def test_integers(make_dicom, pixels, syntax, rendering):
    data = make_dicom(pixels, syntax=syntax, WindowCenter=2000, WindowWidth=3000)
    assert peak_of(data, rendering=rendering) < 4 * pixels.nbytes + TABLES


@pytest.mark.parametrize("keyword, dtype", [("FloatPixel", "<f4"), ("DoubleFloatPixel", "<f8")])
def test_floats(make_dicom, keyword, dtype):
    values = gradient().astype(dtype) / 7
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(gradient())))
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.BitsAllocated = 8 * values.itemsize
    setattr(dataset, f"{keyword}Data", values.tobytes())
    file = io.BytesIO()
    dataset.save_as(file)
    for rendering in ("minmax", "voi"):
        assert peak_of(file.getvalue(), rendering=rendering) < 4 * values.nbytes + TABLES


def test_upper_bits_shutter_and_padding(make_dicom):
    elements = {
        "BitsStored": 10,
        "HighBit": 9,
        "PixelPaddingValue": 0,
        "ShutterShape": "CIRCULAR",
        "CenterOfCircularShutter": [500, 500],
        "RadiusOfCircularShutter": 400,
    }
    pixels = gradient()
    assert peak_of(make_dicom(pixels, **elements)) < 4 * pixels.nbytes + TABLES


# ---- deflated ------------------------------------------------------------------------------


def inflated_by(monkeypatch, data):
    """How many bytes were inflated while reading."""
    counted = []
    whole = Inflated._part

    def part(self, most):
        found = whole(self, most)
        counted.append(len(found))
        return found

    monkeypatch.setattr(Inflated, "_part", part)
    try:
        load_radiograph(data)
    except ImageError as error:
        return sum(counted), error.kind
    return sum(counted), ""


def test_a_tail_is_not_inflated(make_dicom, phantom, monkeypatch):
    data = make_dicom(phantom, syntax=DEFLATED, DataSetTrailingPadding=bytes(20_000_000))
    inflated, kind = inflated_by(monkeypatch, data)
    assert (inflated < 200_000, kind) == (True, "")


def test_pixel_data_that_are_too_long_are_read_as_far_as_declared(
    make_dicom, phantom, minmax_of, monkeypatch
):
    data = make_dicom(np.vstack([phantom] * 3000), syntax=DEFLATED, Rows=34)
    assert np.array_equal(load_radiograph(data).pixels, minmax_of(phantom))
    inflated, kind = inflated_by(monkeypatch, data)
    assert (inflated < 200_000, kind) == (True, "")


def test_a_header_that_never_ends_is_refused(make_dicom, phantom, monkeypatch):
    monkeypatch.setattr("llava_rad.images.dicom_elements.MAX_HEADER_BYTES", 2**20)
    comment = "x" * 3_000_000
    data = make_dicom(phantom, syntax=DEFLATED, TextValue=comment)
    assert comment[:100].encode() not in data
    inflated, kind = inflated_by(monkeypatch, data)
    assert (inflated < 2**21, kind) == (True, "too_large")


@pytest.mark.parametrize("syntax", [DEFLATED, uids.ExplicitVRLittleEndian])
def test_zeros_in_place_of_the_pixel_data_are_not_read_to_their_end(make_dicom, syntax):
    # A megabyte is 131,072 elements without a value; a small deflated file holds millions.
    data = make_dicom(None, syntax=syntax, PatientComments="x" * 50)
    start = 144 + int.from_bytes(data[140:144], "little")
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        whole = zlib.decompress(data[start:], -15) + bytes(2**20)
        data = data[:start] + packer.compress(whole) + packer.flush()
    else:
        data += bytes(2**20)
    with pytest.raises(ImageError, match="more than 65536 elements") as error:
        load_radiograph(data)
    assert error.value.kind == "broken_image"


def test_a_frame_of_a_deflated_file(make_dicom, phantom, minmax_of):
    stack = np.stack([phantom, phantom[::-1], phantom[:, ::-1]])
    data = make_dicom(stack.reshape(-1, 40), syntax=DEFLATED, Rows=34, NumberOfFrames=3)
    for number, frame in enumerate(stack, 1):
        assert np.array_equal(load_radiograph(data, frame=number).pixels, minmax_of(frame))


def test_damaged_deflated_data_are_named(make_dicom, phantom):
    data = make_dicom(phantom, syntax=DEFLATED)
    start = 144 + int.from_bytes(data[140:144], "little")
    with pytest.raises(ImageError) as error:
        load_radiograph(data[:start] + b"\xff" + data[start + 1 :])
    assert error.value.kind == "truncated_image"
