"""Pictures whose data are incomplete though their end is there, and odd ones that are whole."""

import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
import simplejpeg
from image_streams import (
    cut,
    lossless_jpeg,
    png,
    png_of,
    tiff,
    twelve_bit_jpeg,
    without,
    zeroed,
)
from PIL import Image, ImageFile
from pydicom import uid as uids
from pydicom.data import get_testdata_file

from llava_rad.errors import ImageError
from llava_rad.images import jpeg_entropy, load_radiograph

END = b"\xff\xd9"
GRAY = {
    "baseline": {"quality": 90},
    "optimised": {"optimize": True},
    "restart": {"quality": 90, "restart_marker_blocks": 7},
    "progressive": {"progressive": True, "quality": 90},
}
COLOR = {"420": {"quality": 85}, "444": {"subsampling": 0}, "progressive": {"progressive": True}}


def kind_of(data):
    with pytest.raises(ImageError) as error:
        load_radiograph(data)
    assert error.value.remedy
    return error.value.kind


def shown(data):
    return load_radiograph(data, rendering="voi").pixels


@pytest.fixture(scope="module")
def scene():
    """Smooth shapes and noise, as a radiograph has them, 8 bits, [240, 272]."""
    y, x = np.mgrid[0:240, 0:272]
    values = 60 + 50 * np.sin(x / 31) * np.cos(y / 23) + y / 3
    values += np.random.default_rng(5).normal(0, 4, values.shape)
    values[:30] = 0
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def deep(scene):
    """The scene in 12 bits."""
    return scene.astype(np.uint16) * 16 + np.random.default_rng(6).integers(
        0, 16, scene.shape, dtype=np.uint16
    )


@pytest.fixture
def frame_of(make_dicom):
    """The compressed frame that pydicom makes of pixels."""

    def frame_of(pixels, syntax):
        dataset = pydicom.dcmread(io.BytesIO(make_dicom(pixels, syntax=syntax)))
        return pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)

    return frame_of


def damages(stream, end=END):
    """A stream cut and closed, with a gap, and with zeros inside, at several places."""
    for share in (0.4, 0.6, 0.9):
        yield cut(stream, share, end)
        length = min(3000, len(stream) // 4)
        if share < 0.7:
            yield without(stream, share, length)
            yield zeroed(stream, share, length)


def even(frame):
    return frame + b"\0" * (len(frame) % 2)


# ---- JPEG ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAY)
def test_a_damaged_gray_jpeg_is_refused(name, scene, make_file):
    data = make_file(scene, "JPEG", **GRAY[name])
    assert np.abs(shown(data).astype(int) - scene).mean() < 4
    for damaged in damages(data):
        assert kind_of(damaged) == "truncated_image"


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("name", COLOR)
def test_a_damaged_color_jpeg_is_refused(mode, name, scene, make_file):
    picture = Image.merge("RGB", [Image.fromarray(scene)] * 3).convert(mode)
    data = make_file(picture, "JPEG", **COLOR[name])
    assert shown(data).shape == scene.shape
    for damaged in damages(data):
        assert kind_of(damaged) == "truncated_image"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(mode, scene, make_file):
    data = make_file(Image.fromarray(scene).convert(mode), "JPEG", progressive=True)
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    assert len(scans) == (6 if mode == "L" else 10)
    for scan in scans[1:]:
        # Up to the tables before the scan: what is left is in perfect order.
        end = data.rindex(b"\xff\xc4", 0, scan) if b"\xff\xc4" in data[scan - 120 : scan] else scan
        with pytest.raises(ImageError, match=r"scans .* missing") as error:
            load_radiograph(data[:end] + END)
        assert error.value.kind == "truncated_image"


def test_a_jpeg_with_one_scan_a_component_needs_all_of_them(scene):
    """Sequential, but not interleaved."""
    gray = simplejpeg.encode_jpeg(scene[..., None], 90, "GRAY", fastdct=False)
    frame = gray.index(b"\xff\xc0")
    header = bytearray(gray[frame : frame + 13])
    header[3], header[9] = 17, 3
    head = gray[:frame] + bytes(header) + b"\x02\x11\x00\x03\x11\x00" + gray[frame + 13 :]
    start = head.index(b"\xff\xda")
    scan = head[start:-2]
    scans = [scan[:5] + bytes([number]) + scan[6:] for number in (1, 2, 3)]
    whole = head[:start] + b"".join(scans) + END
    assert shown(whole).shape == scene.shape
    for missing in range(3):
        rest = b"".join(scans[:missing] + scans[missing + 1 :])
        assert kind_of(head[:start] + rest + END) == "truncated_image"


def test_odd_but_whole_jpegs_load(scene, make_file):
    data = make_file(scene, "JPEG", quality=90)
    preview = make_file(Image.fromarray(scene).resize((40, 30)), "JPEG")
    exif = b"Exif\0\0" + preview
    app = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    scan = data.index(b"\xff\xda")
    pixels = shown(data)
    for odd in (
        data + b"rubbish" * 100,
        data + preview,
        data[:2] + app + data[2:],
        data[:-2] + bytes(9) + END,  # padded with zeros
        data[:-2] + b"\xff\xff" + END,  # fill bytes
        data[:scan] + b"\xff\xff\xff" + data[scan:],
        data[:scan] + b"stray" + data[scan:],
        data[: scan + 7] + b"\0\0\0" + data[scan + 10 :],  # idle bytes of the scan's header
        data[:2] + b"\xff\xe0\0\x10JFIF\0\x09\x09\0\0\x01\0\x01\0\0" + data[20:],  # JFIF 9.9
    ):
        assert np.array_equal(shown(odd), pixels)


def test_data_left_over_in_a_jpeg_mean_damage(scene, make_file):
    data = make_file(scene, "JPEG", quality=90)
    assert kind_of(data[:-2] + data[-300:]) == "truncated_image"


@pytest.mark.parametrize("name", GRAY)
@pytest.mark.parametrize("syntax", [uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit])
def test_a_damaged_jpeg_in_dicom_is_refused(name, syntax, scene, make_file, make_dicom):
    frame = make_file(scene, "JPEG", **GRAY[name])
    load_radiograph(make_dicom(scene, syntax=syntax, frame=even(frame)))
    for damaged in damages(frame):
        data = make_dicom(scene, syntax=syntax, frame=even(damaged))
        assert kind_of(data) == "truncated_image"


def test_a_damaged_12_bit_jpeg_is_refused(make_dicom, minmax_of):
    levels = np.random.default_rng(2).integers(0, 4096, (70, 90))
    levels[20:40] = 700  # an even area
    frame = twelve_bit_jpeg(levels)
    pixels = np.kron(levels, np.ones((8, 8), np.int64)).astype(np.uint16)

    def load(frame):
        return load_radiograph(
            make_dicom(pixels, syntax=uids.JPEGExtended12Bit, frame=even(frame))
        ).pixels

    assert np.abs(load(frame).astype(int) - minmax_of(pixels)).max() <= 1
    for damaged in damages(frame):
        with pytest.raises(ImageError) as error:
            load(damaged)
        assert error.value.kind == "truncated_image"


# ---- JPEG Lossless -------------------------------------------------------------------------


@pytest.mark.parametrize("restart_rows", [0, 3])
@pytest.mark.parametrize("padding", [b"", b"\0\0\0\0"])
def test_a_damaged_lossless_jpeg_is_refused(deep, make_dicom, minmax_of, restart_rows, padding):
    def load(frame):
        return load_radiograph(
            make_dicom(deep, syntax=uids.JPEGLosslessSV1, frame=even(frame))
        ).pixels

    frame = lossless_jpeg(deep, restart_rows, padding)
    assert np.array_equal(load(frame), minmax_of(deep))
    for damaged in damages(frame):
        with pytest.raises(ImageError) as error:
            load(damaged)
        assert error.value.kind == "truncated_image"


def test_a_lossless_jpeg_without_a_restart_interval_is_refused(deep, make_dicom):
    frame = lossless_jpeg(deep, 3)
    for markers in (b"\xff\xd1", b"\xff\xd2"), (b"\xff\xd2", b"\xff\xd2"):
        start = frame.index(markers[0])
        end = frame.index(markers[1], start + 2)
        damaged = frame[:start] + frame[end:]
        data = make_dicom(deep, syntax=uids.JPEGLosslessSV1, frame=even(damaged))
        assert kind_of(data) == "truncated_image"


def test_one_byte_is_missed_in_a_lossless_jpeg(deep, make_dicom):
    frame = lossless_jpeg(deep)
    data = make_dicom(deep, syntax=uids.JPEGLosslessSV1, frame=even(frame[:-4] + END))
    assert kind_of(data) == "truncated_image"


@pytest.mark.parametrize("pieces", [4, 128])
@pytest.mark.parametrize("area", ["noise", "even", "steps"])
def test_codes_are_counted_wherever_readers_begin(deep, make_dicom, monkeypatch, pieces, area):
    """Even areas give readers nothing to fall into step with."""
    values = deep.copy()
    if area != "noise":
        values[60:200] = 77
    if area == "steps":
        values[60:200, ::2] += 5
    monkeypatch.setattr(jpeg_entropy, "_FEW", pieces)
    monkeypatch.setattr(jpeg_entropy, "_PIECE", 8 * 64)
    monkeypatch.setattr(jpeg_entropy, "_RUN_IN", 8 * 16)
    frame = lossless_jpeg(values)
    load_radiograph(make_dicom(values, syntax=uids.JPEGLosslessSV1, frame=even(frame)))
    data = make_dicom(values, syntax=uids.JPEGLosslessSV1, frame=even(cut(frame, 0.98, END)))
    assert kind_of(data) == "truncated_image"


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm", "SC_rgb_jpeg_dcmtk.dcm"]
)
def test_frames_of_other_writers(name):
    """Whole they load, cut and closed they do not."""
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    end = frame.rindex(END)

    def file(frame):
        dataset.PixelData = pydicom.encaps.encapsulate([even(frame)])
        dataset["PixelData"].is_undefined_length = True
        saved = io.BytesIO()
        dataset.save_as(saved)
        return saved.getvalue()

    load_radiograph(file(frame))
    for share in (0.5, 0.9, 0.99):
        assert kind_of(file(frame[: int(share * end)] + END)) == "truncated_image"


# ---- JPEG-LS and RLE -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", [uids.JPEGLSLossless, uids.RLELossless], ids=lambda syntax: syntax.keyword
)
def test_other_damaged_frames_are_refused(syntax, deep, make_dicom, frame_of):
    frame = frame_of(deep // 64 * 64, syntax)
    end = END if syntax == uids.JPEGLSLossless else b""
    for damaged in damages(frame, end):
        data = make_dicom(deep, syntax=syntax, frame=even(damaged))
        assert kind_of(data) == "truncated_image"


@pytest.mark.parametrize("padded", [False, True])
def test_damaged_deflated_data_are_refused(padded, deep, make_dicom, minmax_of):
    """They have no checksum; what they inflate to is longer or shorter than the data set."""
    extra = {"DataSetTrailingPadding": bytes(64)} if padded else {}
    data = make_dicom(deep, syntax=uids.DeflatedExplicitVRLittleEndian, **extra)
    assert np.array_equal(load_radiograph(data).pixels, minmax_of(deep))
    for share in (0.3, 0.6, 0.8):
        assert kind_of(zeroed(data, share, 3000)) == "truncated_image"


# ---- JPEG 2000 -----------------------------------------------------------------------------

JPEG_2000 = {
    "lossless": {"irreversible": False},
    "layers": {
        "irreversible": True,
        "quality_mode": "rates",
        "quality_layers": [30, 10, 3],
    },
    "tiles": {"tile_size": (100, 70)},
    "precincts": {
        "progression": "RPCL",
        "precinct_size": (64, 64),
        "codeblock_size": (16, 32),
        "num_resolutions": 4,
    },
    "PCRL": {"progression": "PCRL", "tile_size": (128, 128), "precinct_size": (128, 128)},
    "CPRL": {"progression": "CPRL", "precinct_size": (32, 32), "quality_layers": [20, 5]},
    "RLCP": {"progression": "RLCP", "quality_layers": [20, 5, 1]},
    "PLT": {"plt": True},
}


def tile_parts(stream):
    """Where the tile parts of a code stream begin and end."""
    position = stream.index(b"\xff\x90\x00\x0a")
    parts = []
    while stream.startswith(b"\xff\x90", position):
        (length,) = struct.unpack_from(">I", stream, position + 6)
        parts.append((position, position + length))
        position += length
    return parts


def closed(stream, start, end):
    """Change a tile part's length to what it has after its data were cut, and close it."""
    return stream[: start + 6] + struct.pack(">I", end - start) + stream[start + 10 : end] + END


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("name", JPEG_2000)
def test_a_damaged_jpeg_2000_file_is_refused(name, bare, scene, make_file):
    data = make_file(scene, "JPEG2000", no_jp2=bare, **JPEG_2000[name])
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(shown(data), decoded)
    for damaged in damages(data):
        assert kind_of(damaged) == "truncated_image"
    start, end = tile_parts(data)[-1]
    middle = start + 2 * (end - start) // 3
    assert kind_of(closed(data, start, middle)) == "truncated_image"
    unstated = data[: start + 6] + bytes(4) + data[start + 10 :]
    if bare:
        assert np.array_equal(shown(unstated), decoded)
    assert kind_of(without(unstated, 0.8, 50)) == "truncated_image"


@pytest.mark.parametrize("bare", [True, False])
def test_missing_tiles_are_named(bare, scene, make_file):
    data = make_file(scene, "JPEG2000", no_jp2=bare, tile_size=(100, 70))
    parts = tile_parts(data)
    assert len(parts) == 12
    for first, last in ((11, 12), (4, 5), (6, 12)):
        gap = data[: parts[first][0]] + data[parts[last - 1][1] :]
        with pytest.raises(ImageError, match=f"{12 - (last - first)} of 12 .* tiles") as error:
            load_radiograph(gap)
        assert error.value.kind == "truncated_image"


def test_a_missing_part_of_a_tile(scene, make_file):
    data = make_file(scene, "JPEG2000", no_jp2=True)
    start, _ = tile_parts(data)[0]
    assert data[start + 11] == 1
    assert kind_of(data[: start + 11] + b"\x02" + data[start + 12 :]) == "truncated_image"


def test_one_tile_of_sixteen(make_file, scene, make_dicom):
    data = make_file(scene[:64, :64], "JPEG2000", no_jp2=True, tile_size=(64, 64))
    size = data.index(b"\xff\x51") + 6
    wider = data[:size] + struct.pack(">2I", 200, 200) + data[size + 8 :]
    with pytest.raises(ImageError, match="1 of 16") as error:
        load_radiograph(wider)
    assert error.value.kind == "truncated_image"
    frame = make_dicom(
        np.resize(scene, (200, 200)), syntax=uids.JPEG2000Lossless, frame=even(wider)
    )
    assert kind_of(frame) == "truncated_image"


def test_a_damaged_jpeg_2000_frame_is_refused(deep, make_dicom, frame_of):
    frame = frame_of(deep, uids.JPEG2000Lossless)
    for damaged in damages(frame):
        data = make_dicom(deep, syntax=uids.JPEG2000Lossless, frame=even(damaged))
        assert kind_of(data) == "truncated_image"


@pytest.mark.parametrize("length", [40, 200, 1000])
@pytest.mark.parametrize("value", [b"\0", b"\xff"])
def test_overwritten_jpeg_2000_packets_are_refused(length, value, deep, make_file):
    data = make_file(deep, "JPEG2000", no_jp2=True, irreversible=False)
    for share in (0.5, 0.7, 0.9):
        place = int(share * len(data))
        damaged = data[:place] + value * length + data[place + length :]
        assert kind_of(damaged) == "truncated_image"


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("options", [{}, {"irreversible": True}, {"num_resolutions": 1}])
def test_patterns_are_not_taken_for_damage(side, options, scene, make_file):
    """Test patterns have long rows of zeros in their code."""
    y, x = np.mgrid[0:240, 0:272]
    pattern = ((x // side + y // side) % 2 * 255).astype(np.uint8)
    for picture in (pattern, np.where(x < 128, pattern, scene), np.where(y < 128, scene, pattern)):
        load_radiograph(make_file(picture.astype(np.uint8), "JPEG2000", **options))


@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "RG1_J2KI.dcm"])
def test_jpeg_2000_of_another_writer(name):
    pytest.importorskip("data_store", reason="needs the package pydicom-data")
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([even(zeroed(frame, 0.6, 300))])
    file = io.BytesIO()
    dataset.save_as(file)
    assert kind_of(file.getvalue()) == "truncated_image"


# ---- PNG -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_files_with_fewer_rows_are_refused(interlaced, depth, scene, deep, minmax_of):
    pixels = scene if depth == 8 else deep
    assert np.array_equal(
        load_radiograph(png(pixels, interlaced=interlaced)).pixels, minmax_of(pixels)
    )
    for rows in (120, 239):
        with pytest.raises(ImageError, match="bytes") as error:
            load_radiograph(png(pixels, interlaced=interlaced, rows=rows))
        assert error.value.kind == "truncated_image"


def test_damaged_png_data_with_right_chunk_checksums_are_refused(scene):
    lines = b"".join(b"\0" + line.tobytes() for line in scene)
    data = zlib.compress(lines)
    load_radiograph(png_of(data, scene))
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    for damaged in (wrong, data[:-4], *damages(data, b"")):
        assert kind_of(png_of(damaged, scene)) == "truncated_image"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_files_of_few_bits(bits, make_file):
    picture = Image.new("P", (37, 41))
    picture.putpalette(bytes(range(48)))
    picture.putdata([(7 * place) % (1 << bits) for place in range(37 * 41)])
    load_radiograph(make_file(picture, "PNG", bits=bits))


# ---- TIFF ----------------------------------------------------------------------------------


def strips(pixels, rows):
    return [pixels[first : first + rows] for first in range(0, len(pixels), rows)]


def damaged_tiffs(shape, parts, **options):
    for number in (0, len(parts) - 1):
        for damaged in damages(parts[number], options.pop("end", b"")):
            changed = [*parts[:number], damaged, *parts[number + 1 :]]
            yield tiff(shape, changed, **options)


def test_damaged_jpeg_strips_are_refused(scene, make_file):
    parts = [make_file(part, "JPEG", quality=90) for part in strips(scene, 96)]
    options = {"compression": 7, "rows_per_strip": 96}
    assert shown(tiff(scene.shape, parts, **options)).shape == scene.shape
    for data in damaged_tiffs(scene.shape, parts, end=END, **options):
        assert kind_of(data) == "truncated_image"


def test_jpeg_strips_with_tables_apart(scene, make_file):
    data = make_file(scene, "TIFF", compression="jpeg", quality=90)
    assert Image.open(io.BytesIO(data)).tag_v2[347]
    assert shown(data).shape == scene.shape
    place = data.index(b"\xff\xda") + 200
    assert kind_of(data[:place] + bytes(300) + data[place + 300 :]) == "truncated_image"


def test_a_jpeg_strip_of_fewer_rows_is_refused(scene, make_file):
    parts = [make_file(part, "JPEG") for part in strips(scene, 96)]
    parts[1] = make_file(scene[96:160], "JPEG")
    assert kind_of(tiff(scene.shape, parts, compression=7, rows_per_strip=96)) == "truncated_image"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("compression", [5, 8, 32773])
def test_damaged_strips_are_refused(compression, full, scene, make_file, minmax_of):
    name = {5: "tiff_lzw", 8: "tiff_adobe_deflate", 32773: "packbits"}[compression]
    values = scene // 16 * 16

    def coded(part):
        data = make_file(part, "TIFF", compression=name)
        tags = Image.open(io.BytesIO(data)).tag_v2
        assert len(tags[273]) == 1
        return data[tags[273][0] : tags[273][0] + tags[279][0]]

    parts = strips(values, 50)
    if full:  # some writers fill the last strip up
        parts[-1] = np.vstack([parts[-1], np.zeros((10, 272), np.uint8)])
    parts = [coded(part) for part in parts]
    options = {"compression": compression, "rows_per_strip": 50}
    assert np.array_equal(
        load_radiograph(tiff(scene.shape, parts, **options)).pixels, minmax_of(values)
    )
    for data in damaged_tiffs(scene.shape, parts, **options):
        assert kind_of(data) == "truncated_image"


def test_a_strip_with_a_byte_more_is_whole(scene, make_file):
    """Some writers code a byte after the last row, before the code that ends the strip."""
    row = np.append(scene.ravel(), np.uint8(7))[None]
    data = make_file(row, "TIFF", compression="tiff_lzw")
    tags = Image.open(io.BytesIO(data)).tag_v2
    part = data[tags[273][0] : tags[273][0] + tags[279][0]]
    assert np.array_equal(shown(tiff(scene.shape, [part], compression=5)), scene)


@pytest.mark.parametrize("kept", [1, 15])
def test_missing_tiles_of_a_tiff(kept, scene):
    picture = np.zeros((256, 256), np.uint8)
    picture[:200, :200] = scene[:200, :200]
    tiles = [
        picture[y : y + 64, x : x + 64].tobytes()
        for y in range(0, 256, 64)
        for x in range(0, 256, 64)
    ]
    whole = tiff((200, 200), tiles, tile=64)
    assert np.array_equal(shown(whole), picture[:200, :200])
    assert kind_of(tiff((200, 200), tiles[:kept], tile=64)) == "truncated_image"


# ---- other formats -------------------------------------------------------------------------


def test_a_damaged_gif_is_refused(scene, make_file):
    data = make_file(scene, "GIF")
    for whole in (data, data[:-1], data[:-1] + b"\0\0;"):
        assert np.array_equal(shown(whole), scene)
    for damaged in damages(data, b"\0;"):
        assert kind_of(damaged) == "truncated_image"


@pytest.mark.parametrize("lossless", [False, True])
def test_a_cut_webp_is_refused(lossless, scene, make_file):
    data = make_file(scene, "WEBP", lossless=lossless)
    shown(data)
    for damaged in (cut(data, 0.5), without(data, 0.5, 300)):
        assert kind_of(damaged) == "truncated_image"
        # With the lengths mended, libwebp says the same.
        mended = data[:4] + struct.pack("<I", len(damaged) - 8) + damaged[8:16]
        mended += struct.pack("<I", len(damaged) - 20) + damaged[20:]
        assert kind_of(mended) == "truncated_image"


# ---- headers that promise more than there is -----------------------------------------------

HUGE = (1000, 65500)


def promising():
    """Files of some 200 bytes that say they hold 65,500 x 1,000 pixels."""
    small = np.arange(64, dtype=np.uint8).reshape(8, 8)

    def saved(file_format, **options):
        file = io.BytesIO()
        Image.fromarray(small).save(file, file_format, **options)
        return file.getvalue()

    frame_size = struct.pack(">HH", *HUGE)
    for name, code, data in (
        ("baseline", b"\xff\xc0", saved("JPEG", optimize=True)),
        ("progressive", b"\xff\xc2", saved("JPEG", progressive=True)),
        ("lossless", b"\xff\xc3", lossless_jpeg(small.astype(np.uint16))),
        ("12 bits", b"\xff\xc1", twelve_bit_jpeg(small[:2, :2].astype(np.int64))),
    ):
        place = data.index(code) + 5
        yield name, data[:place] + frame_size + data[place + 4 :]
    yield "PNG", png_of(zlib.compress(bytes(100)), np.broadcast_to(np.uint8(0), HUGE))
    for compression in (1, 5, 8, 32773):
        yield (
            f"TIFF {compression}",
            tiff(HUGE, [zlib.compress(bytes(100))], compression=compression),
        )
    bmp = saved("BMP")
    yield "BMP", bmp[:18] + struct.pack("<2i", HUGE[1], HUGE[0]) + bmp[26:]
    yield "PGM", b"P5 65500 1000 255\n" + bytes(200)
    gif = saved("GIF")
    size = gif.rindex(b",\0\0\0\0") + 5
    yield "GIF", gif[:size] + struct.pack("<2H", HUGE[1], HUGE[0]) + gif[size + 4 :]


@pytest.mark.parametrize("name, data", promising(), ids=lambda value: str(value)[:12])
def test_no_memory_is_given_to_a_promise(name, data, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert kind_of(data) == "truncated_image"


@pytest.mark.parametrize(
    "syntax, frame",
    [
        (uids.JPEGLSLossless, None),
        (uids.RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x05" * 68),
    ],
    ids=["JPEG-LS", "RLE"],
)
def test_no_memory_is_given_to_a_frame(syntax, frame, make_dicom, frame_of, monkeypatch):
    if frame is None:
        frame = frame_of(np.arange(64, dtype=np.uint8).reshape(8, 8), syntax)
        place = frame.index(b"\xff\xf7") + 5
        frame = frame[:place] + struct.pack(">HH", *HUGE) + frame[place + 4 :]
    data = make_dicom(
        np.zeros((2, 2), np.uint8), syntax=syntax, frame=even(frame), Rows=1000, Columns=65500
    )
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.as_array", lambda *_, **__: 1 / 0)
    assert kind_of(data) == "truncated_image"
