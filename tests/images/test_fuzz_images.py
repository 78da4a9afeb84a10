"""Damaged files end in an ImageError or in a whole radiograph, and in nothing else."""

import numpy as np
import pytest
from pydicom import uid as uids

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph

_ROUNDS = 150


@pytest.fixture
def files(phantom, make_dicom, make_file):
    small = (phantom // 16).astype(np.uint8)
    frame = make_file(small, "JPEG")
    table = np.arange(4096, dtype="<u2")
    return {
        "plain": make_dicom(phantom, WindowCenter=2000, WindowWidth=3000),
        "padded": make_dicom(phantom.astype(np.int16), PixelPaddingValue=200, RescaleSlope=2),
        "palette": make_dicom(
            small,
            PhotometricInterpretation="PALETTE COLOR",
            **{
                f"{color}PaletteColorLookupTable{part}": value
                for color in ("Red", "Green", "Blue")
                for part, value in (
                    ("Descriptor", [4096, 0, 16]),
                    ("Data", table.tobytes()),
                )
            },
        ),
        "deflated": make_dicom(phantom, syntax=uids.DeflatedExplicitVRLittleEndian),
        "rle": make_dicom(phantom, syntax=uids.RLELossless),
        "jpeg_ls": make_dicom(phantom, syntax=uids.JPEGLSLossless),
        "jpeg_2000": make_dicom(phantom, syntax=uids.JPEG2000Lossless),
        "jpeg": make_dicom(small, syntax=uids.JPEGBaseline8Bit, frame=frame),
        "bare": make_dicom(phantom, syntax=uids.ImplicitVRLittleEndian, preamble=False),
        "png": make_file(phantom, "PNG"),
        "jpg": frame,
        "tiff": make_file(phantom, "TIFF", compression="tiff_lzw"),
    }


def damaged(data, rng):
    data = bytearray(data)
    choice = rng.integers(4)
    if choice == 0:  # cut
        return bytes(data[: rng.integers(1, len(data))])
    if choice == 1:  # a hole
        start = rng.integers(len(data))
        del data[start : start + rng.integers(1, 200)]
        return bytes(data)
    # Flipped bytes, half of the time in the header.
    reach = len(data) if choice == 2 else min(len(data), 1200)
    for _ in range(rng.integers(1, 12)):
        data[rng.integers(reach)] = rng.integers(256)
    return bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "padded", "palette", "deflated", "rle", "jpeg_ls", "jpeg_2000", "jpeg"),
        *("bare", "png", "jpg", "tiff"),
    ],
)
def test_damaged_files(files, name):
    rng = np.random.default_rng(sum(name.encode()))
    outcomes = set()
    for _ in range(_ROUNDS):
        try:
            radiograph = load_radiograph(
                damaged(files[name], rng), rendering=("minmax", "voi")[rng.integers(2)]
            )
        except ImageError as error:
            assert error.kind
            assert error.remedy
            outcomes.add(error.kind)
        else:
            assert radiograph.pixels.dtype == np.uint8
            assert radiograph.pixels.ndim == 2
            assert np.ptp(radiograph.pixels) > 0
    assert len(outcomes) > 1


def test_no_cut_gives_another_picture(files):
    """Where a cut file still loads, only what follows the picture is missing."""
    for name, data in files.items():
        whole = load_radiograph(data).pixels
        for missing in (*range(1, 8), *range(8, len(data), max(1, len(data) // 60))):
            try:
                radiograph = load_radiograph(data[: len(data) - missing])
            except ImageError:
                continue
            assert np.array_equal(radiograph.pixels, whole), f"{name} without {missing} bytes"
            assert missing < 16
