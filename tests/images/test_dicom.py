import io

import numpy as np
import pydicom
import pytest
from image_streams import lossless_jpeg, twelve_bit_jpeg
from PIL import Image
from pydicom import uid as uids
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph

LOSSLESS = [
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGLSLossless,
    uids.JPEG2000Lossless,
]


def kinds(radiograph):
    return {warning.split(":")[0] for warning in radiograph.warnings}


def kind_of(data, **options):
    with pytest.raises(ImageError) as error:
        load_radiograph(data, **options)
    assert error.value.remedy
    return error.value.kind


# ---- encodings -----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_every_lossless_encoding_gives_the_same_picture(phantom, minmax_of, make_dicom, syntax):
    radiograph = load_radiograph(make_dicom(phantom, syntax=syntax))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == ()
    assert radiograph.photometric["transfer_syntax"] == syntax.name
    assert radiograph.photometric["lossy"] is False


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_signed_values_in_every_encoding(phantom, minmax_of, make_dicom, syntax):
    values = phantom.astype(np.int16) - 2048
    data = make_dicom(values, syntax=syntax, BitsStored=12, HighBit=11)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(values))
    assert radiograph.warnings == ()


def test_jpeg_baseline(phantom, minmax_of, make_dicom, make_file):
    small = (phantom // 16).astype(np.uint8)
    frame = make_file(small, "JPEG", quality=95)
    radiograph = load_radiograph(make_dicom(small, syntax=uids.JPEGBaseline8Bit, frame=frame))
    difference = np.abs(radiograph.pixels.astype(int) - minmax_of(small))
    assert difference.mean() < 4
    assert radiograph.photometric["lossy"] is True


@pytest.mark.parametrize("stored", [12, 13, 16])
@pytest.mark.parametrize("syntax", [uids.JPEG2000Lossless, uids.JPEGLSLossless])
def test_stream_precision_and_bits_stored_may_differ(
    phantom, minmax_of, make_dicom, syntax, stored
):
    whole = make_dicom(phantom, syntax=syntax, BitsStored=16, HighBit=15)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    data = make_dicom(phantom, syntax=syntax, frame=frame, BitsStored=stored, HighBit=stored - 1)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert len(radiograph.warnings) <= 1


def test_jpeg_lossless_equals_its_uncompressed_twin():
    # Both come with pydicom; one was made from the other.
    compressed = load_radiograph(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    plain = load_radiograph(get_testdata_file("SC_rgb_rle.dcm", download=False))
    assert np.array_equal(compressed.pixels, plain.pixels)


def test_the_four_encodings_of_a_real_radiograph_agree():
    pytest.importorskip("data_store", reason="needs the package pydicom-data")
    pictures = {}
    for name in ("UNCR", "UNCI", "J2KR", "J2KI"):
        path = get_testdata_file(f"RG1_{name}.dcm", download=False)
        radiograph = load_radiograph(path)
        assert (radiograph.view, radiograph.view_position) == ("frontal", "PA")
        assert radiograph.photometric["lossy"] is name.endswith("I")
        assert radiograph.pixel_spacing is None  # the file says 0.000
        # The edges of the collimator are in millimetres: as pixels they would leave 2 %.
        assert kinds(radiograph) == {"collimator"}
        pictures[name] = radiograph.pixels.astype(int)
    # UNCR and J2KR hold the original, UNCI and J2KI the same lossy copy of it.
    assert np.array_equal(pictures["J2KR"], pictures["UNCR"])
    assert np.array_equal(pictures["J2KI"], pictures["UNCI"])
    assert np.abs(pictures["J2KI"] - pictures["UNCR"]).mean() < 2
    # MONOCHROME1: bones and heart bright, the air beside the neck dark.
    picture = pictures["UNCR"]
    assert picture[900:1300, 850:1000].mean() > 200  # spine
    assert picture[60:160, 20:80].mean() < 100  # air, upper left
    assert picture[500:650, 500:650].mean() < picture[900:1300, 850:1000].mean()  # lung


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian])
def test_a_bare_data_set_loads(phantom, minmax_of, make_dicom, syntax):
    data = make_dicom(phantom, syntax=syntax, preamble=False)
    assert data[128:132] != b"DICM"
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    # Implicit VR Little Endian is what the standard expects there; anything else is odd.
    assert kinds(radiograph) == (set() if syntax.is_implicit_VR else {"transfer_syntax"})


@pytest.mark.parametrize("missing", [128, 132])
def test_a_file_without_preamble_or_prefix(phantom, minmax_of, make_dicom, missing):
    radiograph = load_radiograph(make_dicom(phantom)[missing:])
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == ()


@pytest.mark.parametrize("syntax", [uids.RLELossless, uids.JPEGLSLossless, uids.JPEG2000Lossless])
def test_a_wrong_transfer_syntax_is_mended(phantom, minmax_of, make_dicom, syntax):
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(phantom, syntax=syntax)))
    file = io.BytesIO()
    dataset.save_as(file)
    said = uids.ExplicitVRLittleEndian + "\0"
    was = syntax + "\0" * (len(syntax) % 2)
    data = file.getvalue().replace(was.encode(), said.encode()[: len(was)].ljust(len(was), b"\0"))
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert "transfer_syntax" in kinds(radiograph)


def test_uncompressed_pixels_under_a_compressed_transfer_syntax(phantom, minmax_of, make_dicom):
    data = make_dicom(phantom)
    wrong = uids.JPEG2000Lossless.encode()
    start = data.index(b"UI\x14\x00" + uids.ExplicitVRLittleEndian.encode()) + 4
    data = data[: start - 2] + b"\x16\x00" + wrong + data[start + 20 :]
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert kinds(radiograph) == {"transfer_syntax"}


def test_compressed_pixels_of_defined_length(phantom, minmax_of, make_dicom):
    data = make_dicom(phantom, syntax=uids.JPEG2000Lossless)
    head, value = data.split(b"OB\0\0\xff\xff\xff\xff")
    data = head + b"OB\0\0" + len(value).to_bytes(4, "little") + value
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == ()


# ---- cut files -----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_cut_file_is_an_error(phantom, make_dicom, syntax, share):
    data = make_dicom(phantom, syntax=syntax)
    assert kind_of(data[: int(share * len(data))]) in ("truncated_image", "broken_image")


@pytest.mark.parametrize(
    "syntax",
    [uids.JPEGBaseline8Bit, uids.JPEGLSLossless, uids.JPEG2000Lossless, uids.RLELossless],
    ids=lambda syntax: syntax.keyword,
)
def test_a_cut_stream_in_a_whole_file_is_an_error(make_dicom, make_file, syntax):
    rows, columns = np.mgrid[0:64, 0:64]
    noise = np.random.default_rng(0).integers(0, 40, (64, 64))
    pixels = (2 * columns + rows + noise).astype(np.uint8)
    if syntax == uids.JPEGBaseline8Bit:
        frame = make_file(pixels, "JPEG")
    else:
        whole = pydicom.dcmread(io.BytesIO(make_dicom(pixels, syntax=syntax)))
        frame = pydicom.encaps.get_frame(whole.PixelData, 0, number_of_frames=1)
    assert load_radiograph(make_dicom(pixels, syntax=syntax, frame=frame)).warnings == ()
    for share in (0.3, 0.6, 0.9):
        cut = frame[: int(share * len(frame))]
        data = make_dicom(pixels, syntax=syntax, frame=cut + b"\0" * (len(cut) % 2))
        assert kind_of(data) in ("truncated_image", "broken_image")


def test_a_jpeg_2000_tile_of_unstated_length(phantom, minmax_of, make_dicom):
    whole = pydicom.dcmread(io.BytesIO(make_dicom(phantom, syntax=uids.JPEG2000Lossless)))
    frame = bytearray(pydicom.encaps.get_frame(whole.PixelData, 0, number_of_frames=1))
    start = frame.index(b"\xff\x90\x00\x0a")
    frame[start + 6 : start + 10] = bytes(4)  # zero: the tile reaches up to the end marker

    def load(frame):
        return load_radiograph(make_dicom(phantom, syntax=uids.JPEG2000Lossless, frame=frame))

    assert np.array_equal(load(bytes(frame)).pixels, minmax_of(phantom))
    with pytest.raises(ImageError) as error:
        load(bytes(frame[: len(frame) // 4 * 2]))
    assert error.value.kind == "truncated_image"


def test_short_pixel_data_are_an_error(phantom, make_dicom):
    data = make_dicom(phantom, Rows=35)
    assert kind_of(data) == "truncated_image"


def test_a_file_cut_in_its_header_is_called_cut(phantom, make_dicom):
    data = make_dicom(phantom)
    end = data.index(b"MONOCHROME2") + 4
    assert kind_of(data[:end]) == "truncated_image"


def test_a_stream_of_another_size_is_refused_before_decoding(phantom, make_dicom, make_file):
    small = (phantom // 16).astype(np.uint8)
    frame = make_file(Image.new("L", (4000, 4000)), "JPEG")
    data = make_dicom(small, syntax=uids.JPEGBaseline8Bit, frame=frame)
    with pytest.raises(ImageError, match=r"34 x 40 pixels.*4000 x 4000") as error:
        load_radiograph(data)
    assert error.value.kind == "broken_image"


# ---- what is not a radiograph --------------------------------------------------------------


def test_no_pixel_data_names_the_object(make_dicom):
    data = make_dicom(None, SOPClassUID=uids.BasicTextSRStorage)
    with pytest.raises(ImageError, match="Basic Text SR") as error:
        load_radiograph(data, name="report.dcm")
    assert error.value.kind == "no_pixel_data"
    assert "report.dcm" in str(error.value)


def test_several_frames_are_refused(phantom, make_dicom):
    assert kind_of(make_dicom(np.vstack([phantom] * 2), NumberOfFrames=2, Rows=34)) == "multi_frame"


@pytest.mark.parametrize("rows, kind", [(0, "broken_image"), (60000, "too_large")])
def test_impossible_sizes(phantom, make_dicom, rows, kind):
    assert kind_of(make_dicom(phantom, Rows=rows, Columns=60000)) == kind


@pytest.mark.parametrize("photometric", [None, "MONOCHROME", "RGB"])
def test_unknown_polarity_is_not_guessed(phantom, make_dicom, photometric):
    data = make_dicom(phantom, PhotometricInterpretation=photometric)
    assert kind_of(data) in ("unsupported_encoding", "broken_image")


def test_a_private_transfer_syntax_is_not_guessed(phantom, make_dicom):
    # Such pixel data may be in the other byte order.
    private = b"1.2.840.113619.5.2\0\0"
    data = make_dicom(phantom).replace(uids.ExplicitVRLittleEndian.encode() + b"\0", private)
    assert kind_of(data) == "unsupported_encoding"


def test_an_unsupported_transfer_syntax_is_named(phantom, make_dicom):
    data = make_dicom(phantom, syntax=uids.MPEG2MPML, frame=b"\0\0\1\xb3" * 20)
    with pytest.raises(ImageError, match=r"MPEG2.*\(1\.2\.840\.10008\.1\.2\.4\.100\)") as error:
        load_radiograph(data)
    assert error.value.kind == "unsupported_encoding"


@pytest.mark.parametrize(
    "syntax, packages",
    [
        (uids.JPEGLSLossless, "pyjpegls"),
        (uids.JPEG2000Lossless, "pylibjpeg pylibjpeg-openjpeg"),
        (uids.HTJ2KLossless, "pylibjpeg pylibjpeg-openjpeg"),
    ],
    ids=lambda value: getattr(value, "keyword", None),
)
def test_a_missing_decoder_is_named_with_its_command(
    phantom, make_dicom, monkeypatch, syntax, packages
):
    monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    data = make_dicom(phantom, syntax=syntax, frame=b"\xff\xd8" + bytes(50))
    with pytest.raises(ImageError) as error:
        load_radiograph(data)
    assert error.value.kind == "unsupported_encoding"
    assert syntax.name in error.value.what and f"({syntax})" in error.value.what
    assert error.value.remedy == f"Install it: pip install {packages}"


@pytest.fixture
def without_gpl(monkeypatch):
    """As if pylibjpeg-libjpeg were not installed."""
    for syntax in uids.JPEGTransferSyntaxes:
        decoder = pydicom.pixels.get_decoder(syntax)
        others = {name: f for name, f in decoder._available.items() if name != "pylibjpeg"}
        monkeypatch.setattr(decoder, "_available", others)


def test_every_jpeg_is_decoded_without_code_under_the_gpl(without_gpl, make_dicom, minmax_of):
    levels = np.random.default_rng(0).integers(0, 4096, (6, 7))
    blocks = np.kron(levels, np.ones((8, 8), np.int64)).astype(np.uint16)
    data = make_dicom(blocks, syntax=uids.JPEGExtended12Bit, frame=twelve_bit_jpeg(levels))
    assert np.abs(load_radiograph(data).pixels.astype(int) - minmax_of(blocks)).max() <= 1
    deep = np.random.default_rng(1).integers(0, 65536, (40, 50)).astype(np.uint16)
    data = make_dicom(deep, syntax=uids.JPEGLossless, frame=lossless_jpeg(deep, 3))
    plain = load_radiograph(make_dicom(deep))
    assert np.array_equal(load_radiograph(data).pixels, plain.pixels)
    # Two that come with pydicom; the header of the second one's scan is odd.
    for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
        assert load_radiograph(get_testdata_file(name, download=False)).pixels.std() > 20


def test_a_jpeg_that_the_decoder_refuses_names_the_other_one(without_gpl, make_dicom, monkeypatch):
    frame = twelve_bit_jpeg(np.arange(30).reshape(5, 6))

    def refuse(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr("imagecodecs.jpeg8_decode", refuse)
    blocks = np.zeros((40, 48), np.uint16)
    with pytest.raises(ImageError) as error:
        load_radiograph(make_dicom(blocks, syntax=uids.JPEGExtended12Bit, frame=frame))
    assert "pip install 'llava-rad[dicom-gpl]'" in error.value.remedy


def test_other_objects_load_with_a_warning(phantom, make_dicom):
    data = make_dicom(
        phantom,
        Modality="CT",
        BodyPartExamined="KNEE",
        PresentationIntentType="FOR PROCESSING",
        PatientOrientation=["R", "F"],
    )
    assert kinds(load_radiograph(data)) == {"modality", "body_part", "for_processing", "mirrored"}
    data = make_dicom(phantom, BodyPartExamined="CHEST", PatientOrientation=["L", "F"])
    assert load_radiograph(data).warnings == ()


# ---- bits ----------------------------------------------------------------------------------


def test_bits_stored_too_small_never_wraps(phantom, minmax_of, make_dicom):
    radiograph = load_radiograph(make_dicom(phantom, BitsStored=10, HighBit=9))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert kinds(radiograph) == {"bits_stored"}


def test_overlay_in_the_upper_bits_is_removed(phantom, minmax_of, make_dicom):
    pixels = phantom.copy()
    pixels[10:20, 10:20] |= 0x8000
    overlay = Dataset()
    overlay.add_new((0x6000, 0x0102), "US", 15)
    data = make_dicom(pixels, BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.update(overlay)
    file = io.BytesIO()
    dataset.save_as(file)
    radiograph = load_radiograph(file.getvalue())
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == ()


def test_values_in_the_upper_bits(phantom, make_dicom):
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    plain = load_radiograph(make_dicom(phantom, **window), rendering="voi")
    data = make_dicom(phantom << 4, BitsStored=12, HighBit=15, **window)
    shifted = load_radiograph(data, rendering="voi")
    assert np.array_equal(plain.pixels, shifted.pixels)
    assert shifted.warnings == ()


def test_a_wrong_high_bit_does_not_shift(phantom, make_dicom):
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    plain = load_radiograph(make_dicom(phantom, **window), rendering="voi")
    odd = load_radiograph(make_dicom(phantom, HighBit=15, **window), rendering="voi")
    assert np.array_equal(plain.pixels, odd.pixels)


def test_negative_values_without_sign_extension(phantom, minmax_of, make_dicom):
    values = phantom.astype(np.int16) - 2048
    data = make_dicom(values & 0x0FFF, BitsStored=12, HighBit=11)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(values))
    assert radiograph.warnings == ()


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_wide_integers(phantom, minmax_of, make_dicom, dtype):
    values = phantom.astype(dtype) * 1000
    assert np.array_equal(load_radiograph(make_dicom(values)).pixels, minmax_of(values))


@pytest.mark.parametrize("keyword, dtype", [("FloatPixel", "<f4"), ("DoubleFloatPixel", "<f8")])
def test_float_pixels(phantom, minmax_of, make_dicom, keyword, dtype):
    framed = np.pad(phantom / 1000 - 2, 3, constant_values=-9).astype(dtype)
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(framed)))
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    setattr(dataset, f"{keyword}Data", framed.tobytes())
    setattr(dataset, f"{keyword}PaddingValue", -9.0)
    file = io.BytesIO()
    dataset.save_as(file)
    radiograph = load_radiograph(file.getvalue())
    assert np.array_equal(radiograph.pixels, np.pad(minmax_of(phantom), 3))
    framed[3, 3] = np.nan
    setattr(dataset, f"{keyword}Data", framed.tobytes())
    file = io.BytesIO()
    dataset.save_as(file)
    assert kind_of(file.getvalue()) == "not_finite"


def test_one_bit_pixels(make_dicom):
    bits = np.arange(33 * 40).reshape(33, 40) % 3 == 0
    packed = np.packbits(bits, bitorder="little").reshape(33, 5)
    data = make_dicom(packed, BitsAllocated=1, BitsStored=1, HighBit=0, Rows=33, Columns=40)
    expected = np.where(bits, 255, 0)
    assert np.array_equal(load_radiograph(data).pixels, expected)


# ---- padding -------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_is_out_of_the_range_and_black(
    phantom, minmax_of, make_dicom, photometric, padding
):
    framed = np.pad(phantom, 3, constant_values=padding)
    data = make_dicom(framed, PixelPaddingValue=padding, PhotometricInterpretation=photometric)
    radiograph = load_radiograph(data)
    inside = minmax_of(phantom if photometric == "MONOCHROME2" else -phantom.astype(int))
    assert np.array_equal(radiograph.pixels, np.pad(inside, 3))
    assert radiograph.photometric["padding"] == [padding, padding]


def test_padding_range(phantom, minmax_of, make_dicom):
    framed = np.pad(phantom, 3, constant_values=4090)
    framed[0] = 4095
    data = make_dicom(framed, PixelPaddingValue=4095, PixelPaddingRangeLimit=4080)
    assert np.array_equal(load_radiograph(data).pixels, np.pad(minmax_of(phantom), 3))


@pytest.mark.parametrize("said", [0xFFFF, 0x0FFF])
def test_padding_above_bits_stored(phantom, minmax_of, make_dicom, said):
    framed = np.pad(phantom, 3, constant_values=0xFFFF)
    data = make_dicom(framed, PixelPaddingValue=said, BitsStored=12, HighBit=11)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, np.pad(minmax_of(phantom), 3))
    assert radiograph.warnings == ()


def test_padding_of_signed_pixels(phantom, minmax_of, make_dicom):
    framed = np.pad(phantom.astype(np.int16), 3, constant_values=-2000)
    data = make_dicom(framed, PixelPaddingValue=-2000)
    assert np.array_equal(load_radiograph(data).pixels, np.pad(minmax_of(phantom), 3))
    # The same with the value written as an unsigned number.
    raw = data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
    assert raw != data
    assert np.array_equal(load_radiograph(raw).pixels, np.pad(minmax_of(phantom), 3))


def test_nothing_but_padding(phantom, make_dicom):
    assert kind_of(make_dicom(phantom * 0, PixelPaddingValue=0)) == "constant_image"


# ---- polarity ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "photometric, shape, warned",
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME1", "IDENTITY", True),
    ],
)
def test_photometric_interpretation_decides_polarity(
    phantom, minmax_of, make_dicom, photometric, shape, warned
):
    stored = phantom if photometric == "MONOCHROME2" else 4095 - phantom
    data = make_dicom(stored, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    radiograph = load_radiograph(data)
    assert np.abs(radiograph.pixels.astype(int) - minmax_of(phantom)).max() <= 1
    assert kinds(radiograph) == ({"presentation_lut_shape"} if warned else set())
    assert radiograph.photometric["inverted"] is (photometric == "MONOCHROME1")


# ---- color ---------------------------------------------------------------------------------


def test_color_becomes_luma(make_dicom):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (33, 35, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(rgb).convert("L")).astype(int)
    radiograph = load_radiograph(make_dicom(rgb), rendering="voi")
    assert np.abs(radiograph.pixels - expected).max() <= 1
    assert radiograph.photometric["voi"] == "full_range"

    planes = np.ascontiguousarray(np.moveaxis(rgb, 2, 0)).reshape(33, 35, 3)
    planar = load_radiograph(make_dicom(planes, PlanarConfiguration=1), rendering="voi")
    assert np.abs(planar.pixels - expected).max() <= 1

    ybr = pydicom.pixels.convert_color_space(rgb, "RGB", "YBR_FULL")
    data = make_dicom(ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(load_radiograph(data, rendering="voi").pixels - expected).max() <= 2


def test_deep_color(phantom, minmax_of, make_dicom):
    rgb = np.repeat(phantom[..., None], 3, axis=2)
    radiograph = load_radiograph(make_dicom(rgb))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))


@pytest.mark.parametrize("bits, entry", [(16, "<u2"), (8, "<u2"), (8, "u1"), (16, "scaled")])
def test_palette_indices_are_no_grays(phantom, make_dicom, bits, entry):
    indices = (phantom // 16).astype(np.uint8)
    reverse = np.arange(255, -1, -1)
    # Entries of 16 bits, 8-bit values in 16-bit words, packed 8-bit values, a wrong 16.
    table = (reverse * 257 if entry == "<u2" and bits == 16 else reverse).astype(
        "<u2" if entry == "scaled" else entry
    )
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        elements[f"{color}PaletteColorLookupTableData"] = table.tobytes()
    radiograph = load_radiograph(make_dicom(indices, **elements), rendering="voi")
    assert np.array_equal(radiograph.pixels, 255 - indices)


# ---- facts ---------------------------------------------------------------------------------


def code(meaning):
    item = Dataset()
    item.CodeMeaning = meaning
    return [item]


@pytest.mark.parametrize(
    "position, meaning, view",
    [
        ("AP", None, "frontal"),
        ("LL", None, "lateral"),
        ("", None, "unknown"),
        (None, None, "unknown"),
        ("", "postero-anterior", "frontal"),
        (None, "left lateral", "lateral"),
        ("PA", "postero-anterior", "frontal"),
        ("PA", "left lateral", "unknown"),
    ],
)
def test_view(phantom, make_dicom, position, meaning, view):
    elements = {"ViewPosition": position}
    if meaning:
        elements["ViewCodeSequence"] = code(meaning)
    radiograph = load_radiograph(make_dicom(phantom, **elements))
    assert radiograph.view == view
    assert radiograph.view_position == (position or meaning)
    contradiction = position == "PA" and meaning == "left lateral"
    assert kinds(radiograph) == ({"view"} if contradiction else set())


@pytest.mark.parametrize(
    "elements, spacing",
    [
        ({"PixelSpacing": [0.14, 0.15]}, (0.14, 0.14)),  # resampled to the finer one
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3)),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2)),
        ({"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.2, 0.2]}, (0.14, 0.14)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2)),
        ({"PixelSpacing": [-1, 1]}, None),
        ({"PixelSpacing": "0.14"}, None),
        ({}, None),
    ],
)
def test_pixel_spacing(phantom, make_dicom, elements, spacing):
    assert load_radiograph(make_dicom(phantom, **elements)).pixel_spacing == spacing


def test_laterality(phantom, make_dicom):
    assert load_radiograph(make_dicom(phantom)).laterality is None
    assert load_radiograph(make_dicom(phantom, Laterality="R")).laterality == "R"
    both = make_dicom(phantom, Laterality="R", ImageLaterality="L")
    assert load_radiograph(both).laterality == "L"
