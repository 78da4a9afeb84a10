"""Modality and value-of-interest steps, against pydicom and the formulas of the standard."""

import math

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from llava_rad.errors import ConfigError, ImageError
from llava_rad.images import load_radiograph
from llava_rad.images.photometric import Window


def kinds(radiograph):
    return {warning.split(":")[0] for warning in radiograph.warnings}


def table(entries, first=0, bits=16, dtype="<u2"):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.add_new("LUTData", "OW", np.asarray(entries).astype(dtype).tobytes())
    return [item]


# ---- windows -------------------------------------------------------------------------------


@pytest.mark.parametrize("center, width", [(2048, 4096), (40, 400), (0, 2), (100.5, 1)])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_formulas(center, width, function):
    for x in (-3000, -160, -1, 0, 1, 39.5, 100, 240, 241, 5000):
        if function == "LINEAR":  # PS3.3 C.11.2.1.2.1
            if x <= center - 0.5 - (width - 1) / 2:
                expected = 0.0
            elif x > center - 0.5 + (width - 1) / 2:
                expected = 1.0
            else:
                expected = (x - (center - 0.5)) / (width - 1) + 0.5
        elif function == "LINEAR_EXACT":  # C.11.2.1.3.2
            expected = min(max((x - center) / width + 0.5, 0.0), 1.0)
        else:  # C.11.2.1.3.1
            power = -4 * (x - center) / width
            expected = 1 / (1 + math.exp(power)) if power < 700 else 0.0
        got = Window(center, width, function)(np.array([float(x)]))[0]
        assert got == pytest.approx(expected, abs=1e-12)


def test_linear_window_spot_values():
    grays = 255 * Window(40, 400)(np.array([-160.0, 240.0]))
    assert grays.tolist() == [0, 255]


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, 0.5, -2])
def test_rescale_and_window_agree_with_pydicom(phantom, make_dicom, function, slope):
    values = phantom.astype(np.int16) - 2000
    elements = {"RescaleSlope": slope, "RescaleIntercept": -100}
    elements |= {"WindowCenter": [slope * 200 - 100, 7], "WindowWidth": [1500, 9]}
    if function:
        elements["VOILUTFunction"] = function
    data = make_dicom(values, **elements)
    radiograph = load_radiograph(data, rendering="voi")
    assert radiograph.photometric["voi"] == "window"

    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    scaled = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    shown = pydicom.pixels.apply_windowing(scaled, dataset)
    ends = sorted(slope * end - 100 for end in (-(2**15), 2**15 - 1))
    expected = 255 * (shown - ends[0]) / (ends[1] - ends[0])
    if slope < 0:  # pydicom then takes the ends of the output in the wrong order
        expected = 255 - expected
    assert np.abs(radiograph.pixels - expected).max() <= 1


def test_minmax_ignores_windows(phantom, minmax_of, make_dicom):
    data = make_dicom(phantom, WindowCenter=900, WindowWidth=10)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.photometric["voi"] == "none"
    assert radiograph.rendering == "minmax"
    assert radiograph.photometric["value_range"] == [200, 3801]


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": 2000, "WindowWidth": -300},
        {"WindowCenter": 2000},
        {"WindowWidth": 2000},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 30000, "WindowWidth": 1000},
        {"WindowCenter": -30000, "WindowWidth": 1000},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {},
    ],
)
def test_an_unusable_window_falls_back_to_minmax(phantom, minmax_of, make_dicom, elements):
    elements = {keyword: value for keyword, value in elements.items() if value is not None}
    radiograph = load_radiograph(make_dicom(phantom, **elements), rendering="voi")
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert kinds(radiograph) == {"voi"}
    assert radiograph.photometric["voi"] == "minmax"
    assert radiograph.rendering == "voi"


def test_padding_does_not_hide_a_window_beside_the_data(phantom, minmax_of, make_dicom):
    framed = np.pad(phantom, 3)
    data = make_dicom(framed, PixelPaddingValue=0, WindowCenter=100, WindowWidth=10)
    radiograph = load_radiograph(data, rendering="voi")
    assert np.array_equal(radiograph.pixels, np.pad(minmax_of(phantom), 3))
    assert kinds(radiograph) == {"voi"}


# ---- lookup tables -------------------------------------------------------------------------


def test_modality_lut_comes_before_all(phantom, minmax_of, make_dicom):
    squares = np.arange(4096) ** 2 // 256
    data = make_dicom(phantom, ModalityLUTSequence=table(squares))
    assert np.array_equal(load_radiograph(data).pixels, minmax_of(squares[phantom]))


def test_modality_lut_ends_reach_on(phantom, minmax_of, make_dicom):
    entries = np.arange(1000, 2000)
    data = make_dicom(phantom, ModalityLUTSequence=table(entries, first=500))
    expected = minmax_of(np.clip(phantom.astype(int) + 500, 1000, 1999))
    assert np.array_equal(load_radiograph(data).pixels, expected)


@pytest.mark.parametrize(
    "bits, declared, dtype, warned",
    [
        (12, 12, "<u2", False),
        (16, 16, "<u2", False),
        (8, 8, "u1", False),  # packed, two entries to a word
        (8, 8, "<u2", False),  # one to a word
        (12, 16, "<u2", True),  # the descriptor declares too much
        (8, 16, "<u2", True),
        (12, 8, "<u2", True),  # and too little
    ],
)
def test_voi_lut_depth_is_that_of_its_entries(phantom, make_dicom, bits, declared, dtype, warned):
    root = np.sqrt(np.arange(4096) / 4095)
    entries = np.rint(root * (2**bits - 1))
    data = make_dicom(phantom, VOILUTSequence=table(entries, bits=declared, dtype=dtype))
    radiograph = load_radiograph(data, rendering="voi")
    assert np.abs(radiograph.pixels - 255 * root[phantom]).max() <= 1
    assert radiograph.photometric["voi"] == "lut"
    assert kinds(radiograph) == ({"voi_lut"} if warned else set())


def test_voi_lut_of_65536_entries_over_negative_values(phantom, make_dicom):
    values = phantom.astype(np.int16) - 2000
    ramp = np.arange(65536)
    data = make_dicom(values, VOILUTSequence=table(ramp, first=-32768))
    expected = 255 * (values.astype(int) + 32768) / 65535
    # The standard leaves the descriptor signed or unsigned; files have both.
    unsigned = data.replace(b"\x28\x00\x02\x30SS", b"\x28\x00\x02\x30US")
    assert unsigned != data
    for written in (data, unsigned):
        radiograph = load_radiograph(written, rendering="voi")
        assert np.abs(radiograph.pixels - expected).max() <= 1


@pytest.mark.parametrize("bits, dtype", [(12, ">u2"), (8, ">u2"), (8, "packed")])
def test_voi_lut_in_big_endian(phantom, make_dicom, bits, dtype):
    root = np.sqrt(np.arange(4096) / 4095)
    entries = np.rint(root * (2**bits - 1)).astype(np.uint16)
    if dtype == "packed":  # the first of two entries is the lower half of a word
        sequence = table(entries.astype(np.uint8).view("<u2"), bits=8, dtype=">u2")
        sequence[0].LUTDescriptor = [4096, 0, 8]
    else:
        sequence = table(entries, bits=bits, dtype=dtype)
    data = make_dicom(phantom, syntax=ExplicitVRBigEndian, VOILUTSequence=sequence)
    radiograph = load_radiograph(data, rendering="voi")
    assert np.abs(radiograph.pixels - 255 * root[phantom]).max() <= 1


@pytest.mark.parametrize(
    "elements, voi",
    [({"WindowCenter": 2000, "WindowWidth": 2000}, "window"), ({}, "minmax")],
)
def test_a_broken_voi_lut_falls_back(phantom, make_dicom, elements, voi):
    broken = table(np.arange(100))
    broken[0].LUTDescriptor = [4096, 0, 12]
    data = make_dicom(phantom, VOILUTSequence=broken, **elements)
    radiograph = load_radiograph(data, rendering="voi")
    assert radiograph.photometric["voi"] == voi
    assert kinds(radiograph) == {"voi"}
    assert any("LUT" in warning for warning in radiograph.warnings)


def test_a_broken_modality_lut_is_an_error(phantom, make_dicom):
    broken = table(np.arange(100))
    broken[0].LUTDescriptor = [4096, 0, 12]
    with pytest.raises(ImageError, match="Modality LUT") as error:
        load_radiograph(make_dicom(phantom, ModalityLUTSequence=broken))
    assert error.value.kind == "broken_image"


def test_rescale_slope_zero_is_left_out(phantom, minmax_of, make_dicom):
    radiograph = load_radiograph(make_dicom(phantom, RescaleSlope=0, RescaleIntercept=5))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert kinds(radiograph) == {"rescale"}


# ---- contrast and arguments ----------------------------------------------------------------


def test_low_contrast_is_reported(phantom, make_dicom):
    assert "low_contrast" not in kinds(load_radiograph(make_dicom(phantom)))
    spiked = phantom.copy()
    spiked[0, 0] = 60000
    assert kinds(load_radiograph(make_dicom(spiked))) == {"low_contrast"}
    data = make_dicom(phantom, WindowCenter=20000, WindowWidth=40000)
    assert kinds(load_radiograph(data, rendering="voi")) == {"low_contrast"}


def test_an_unknown_rendering_is_a_wrong_call(phantom, make_dicom):
    with pytest.raises(ConfigError, match="minmax or voi"):
        load_radiograph(make_dicom(phantom), rendering="full")
