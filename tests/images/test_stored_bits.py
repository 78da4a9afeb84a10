"""Values beyond Bits Stored: rubbish in unused bits is removed, a picture is kept."""

import io

import numpy as np
import pydicom
import pytest
from pydicom import uid as uids

from llava_rad.images import load_radiograph
from llava_rad.images.stored_bits import Evidence, upper_bits_are_foreign, within_bits

LOSSLESS = [uids.ExplicitVRLittleEndian, uids.JPEG2000Lossless, uids.JPEGLSLossless]
NOTHING = Evidence(None, None, None)


def chest(seed=0, size=96, top=3800, noise=12.0):
    """A smooth picture of 0 to about ``top`` with edges and noise, as uint16."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    values = 0.35 + 0.3 * np.sin(3 * columns) * np.cos(2 * rows) + 0.3 * columns
    for left in (0.2, 0.6):
        values -= 0.3 * np.exp(-(((columns - left) / 0.12) ** 2) - ((rows - 0.45) / 0.25) ** 2)
    values[5:12, 70:80] = 1.0  # a side marker
    scaled = top * (values - values.min()) / np.ptp(values) + rng.normal(0, noise, values.shape)
    return np.clip(scaled, 0, top).astype(np.uint16)


def rubbish(kind, values, bits):
    """The same values with something above ``bits``."""
    rng = np.random.default_rng(1)
    upper = 2 ** (16 - bits)
    rows, columns = np.mgrid[0 : values.shape[0], 0 : values.shape[1]]
    above = {
        "random": rng.integers(0, upper, values.shape),
        "sparse": rng.integers(1, upper, values.shape) * (rng.random(values.shape) < 0.02),
        "a block": ((rows > 30) & (rows < 60) & (columns < 40)) * (upper // 2),
        "lines": (columns % 3 == 0) * 1,
        "everywhere": np.full(values.shape, upper - 1),
        "sign": (values >= 2 ** (bits - 1)) * (upper - 1),
        "text": ((rows // 3 + columns // 2) % 7 == 0) * (upper // 2),
    }[kind]
    return (values + (above << bits)).astype(np.uint16)


@pytest.fixture
def make(make_dicom):
    """Write all 16 bits of values, whatever the header says of them."""

    def make(values, syntax, **elements):
        frame = None
        if syntax.is_compressed:
            whole = make_dicom(values, syntax=syntax, BitsStored=16, HighBit=15)
            data = pydicom.dcmread(io.BytesIO(whole)).PixelData
            frame = pydicom.encaps.get_frame(data, 0, number_of_frames=1)
        return make_dicom(values, syntax=syntax, frame=frame, **elements)

    return make


def same(pixels, expected):
    """Whether two renderings agree; halves may be rounded in two ways."""
    return np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(
    "kind", ["random", "sparse", "a block", "lines", "everywhere", "sign", "text"]
)
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_rubbish_in_unused_bits_is_removed(make, minmax_of, rendering, syntax, kind, bits):
    values = chest(top=int(0.93 * 2**bits))
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    header = {"BitsStored": bits, "HighBit": bits - 1, **window}
    clean = load_radiograph(make(values, LOSSLESS[0], **header), rendering=rendering)
    if rendering == "minmax":
        assert same(clean.pixels, minmax_of(values))
    data = make(rubbish(kind, values, bits), syntax, **header)
    radiograph = load_radiograph(data, rendering=rendering)
    assert np.array_equal(radiograph.pixels, clean.pixels)
    assert [w.split(":")[0] for w in radiograph.warnings] == ["bits_stored"]


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("stored", [8, 10, 11])
@pytest.mark.parametrize("noise", [0.0, 12.0, 60.0])
def test_a_picture_beyond_bits_stored_is_kept(make, minmax_of, syntax, stored, noise):
    values = chest(noise=noise)
    data = make(values, syntax, BitsStored=stored, HighBit=stored - 1)
    radiograph = load_radiograph(data)
    if noise < 2**stored / 8:
        assert same(radiograph.pixels, minmax_of(values))
        assert [w.split(":")[0] for w in radiograph.warnings] == ["bits_stored"]
    # Whatever the noise, the header's largest value settles it.
    largest = {"LargestImagePixelValue": int(values.max())}
    data = make(values, syntax, BitsStored=stored, HighBit=stored - 1, **largest)
    assert same(load_radiograph(data).pixels, minmax_of(values))


def test_signed_values(make_dicom, minmax_of):
    values = chest().astype(np.int16) - 2000
    header = {"BitsStored": 12, "HighBit": 11}
    dirty = ((values & 0x0FFF) | (rubbish("random", values * 0, 12) & 0xF000)).astype(np.int16)
    radiograph = load_radiograph(make_dicom(dirty, **header))
    assert same(radiograph.pixels, minmax_of(values))
    wide = load_radiograph(make_dicom(values, BitsStored=10, HighBit=9))
    assert same(wide.pixels, minmax_of(values))


def test_padding_has_no_say(make_dicom, minmax_of):
    values = chest()
    framed = np.pad(rubbish("random", values, 12), 20, constant_values=0xFFFF)
    radiograph = load_radiograph(
        make_dicom(framed, BitsStored=12, HighBit=11, PixelPaddingValue=0xFFFF)
    )
    inside = radiograph.pixels[20:-20, 20:-20]
    # Values whose rubbish makes them the padding value are padding; there are few.
    assert (inside != minmax_of(values)).mean() < 0.01


def test_color(make_dicom, minmax_of):
    values = np.stack([chest(seed) for seed in range(3)], axis=-1)
    header = {"BitsStored": 12, "HighBit": 11}
    clean = load_radiograph(make_dicom(values, **header))
    dirty = rubbish("random", values[..., 0], 12)[..., None] & 0xF000 | values
    assert np.array_equal(load_radiograph(make_dicom(dirty, **header)).pixels, clean.pixels)
    small = load_radiograph(make_dicom(values, BitsStored=10, HighBit=9))
    assert np.array_equal(small.pixels, clean.pixels)
    assert same(clean.pixels, minmax_of(np.rint(values @ [0.299, 0.587, 0.114])))


@pytest.mark.parametrize(
    "evidence, foreign",
    [
        (Evidence(None, 900, None), True),
        (Evidence(None, 3996, None), False),
        (Evidence(None, 5000, None), True),  # says nothing; the word of Bits Stored is taken
        (Evidence(None, None, (0, 1024)), True),
        (Evidence(None, None, (0, 4096)), False),
        (Evidence(None, None, (-300, 700)), True),
        (NOTHING, True),
    ],
)
def test_the_header_decides_where_the_picture_does_not(evidence, foreign):
    pixels = np.full((40, 40), 900, np.uint16)  # all upper bits alike, so no neighbours differ
    pixels[:, :20] = 800
    pixels += 3072
    assert within_bits(pixels, 10, signed=False).max() == 900
    pixels[3, 3] = 3996
    assert upper_bits_are_foreign(pixels, None, 10, evidence) is foreign
