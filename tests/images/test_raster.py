import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph


def kinds(radiograph):
    return {warning.split(":")[0] for warning in radiograph.warnings}


def kind_of(data):
    with pytest.raises(ImageError) as error:
        load_radiograph(data)
    assert error.value.remedy
    return error.value.kind


@pytest.fixture
def small(phantom):
    """The phantom in 8 bits, 12 to 237."""
    return (phantom // 16).astype(np.uint8)


# ---- formats and depths --------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_8_bits(small, minmax_of, make_file, file_format):
    data = make_file(small, file_format)
    stretched, plain = load_radiograph(data), load_radiograph(data, rendering="voi")
    assert np.array_equal(stretched.pixels, minmax_of(small))
    assert np.array_equal(plain.pixels, small)
    assert plain.photometric["voi"] == "full_range"
    assert plain.photometric["file_format"] == file_format
    assert plain.photometric["lossy"] is False
    assert plain.warnings == ()
    assert (plain.view, plain.view_position, plain.pixel_spacing) == ("unknown", None, None)


@pytest.mark.parametrize(
    "file_format, options",
    [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("JPEG2000", {})],
)
def test_other_compressions(small, make_file, file_format, options):
    radiograph = load_radiograph(make_file(small, file_format, **options), rendering="voi")
    assert np.abs(radiograph.pixels.astype(int) - small).mean() < 3
    assert radiograph.photometric["lossy"] is (True if file_format == "JPEG" else None)


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_never_clamped(phantom, minmax_of, make_file, file_format, rendering):
    radiograph = load_radiograph(make_file(phantom, file_format), rendering=rendering)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.photometric["bits_stored"] >= 16
    assert kinds(radiograph) == ({"voi"} if rendering == "voi" else set())


@pytest.mark.parametrize("scale, dtype", [(1000, np.int32), (1e-3, np.float32), (-1, np.int32)])
def test_wide_tiff(phantom, minmax_of, make_file, scale, dtype):
    values = (phantom * scale).astype(dtype) if scale > 0 else -phantom.astype(dtype)
    assert np.array_equal(load_radiograph(make_file(values, "TIFF")).pixels, minmax_of(values))


def test_unsigned_32_bit_tiff(phantom, minmax_of, make_file):
    values = phantom.astype(np.uint32) * 10**6
    data = bytearray(make_file(Image.fromarray(values.view(np.int32)), "TIFF"))
    # Pillow writes signed pictures only: turn tag 339, short, one value, from signed to unsigned.
    place = data.index(b"\x53\x01\x03\x00\x01\x00\x00\x00\x02")
    data[place + 8] = 1
    assert np.array_equal(load_radiograph(bytes(data)).pixels, minmax_of(values))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_one_bit(small, make_file, file_format):
    bits = small > 100
    data = make_file(Image.fromarray(bits), file_format)
    for rendering in ("minmax", "voi"):
        expected = np.where(bits, 255, 0)
        assert np.array_equal(load_radiograph(data, rendering=rendering).pixels, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff(phantom, minmax_of, make_file, dtype):
    values = (phantom // (16 if dtype == np.uint8 else 1)).astype(dtype)
    data = bytearray(make_file(values, "TIFF", tiffinfo={262: 1}))
    # Pillow writes white-is-zero only as a tag: 262, short, one value.
    place = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")
    data[place + 8] = 0
    radiograph = load_radiograph(bytes(data))
    assert np.array_equal(radiograph.pixels, minmax_of(-values.astype(int)))


# ---- color and alpha -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "P"])
def test_color_becomes_luma(small, make_file, mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (33, 35, 3)).astype(np.uint8)).convert(mode)
    # Pillow before 13 does not read back what it writes of YCbCr without compression.
    file = make_file(image, "TIFF", compression="tiff_lzw")
    radiograph = load_radiograph(file, rendering="voi")
    rgb = np.asarray(image.convert("RGB")).astype(float)
    expected = rgb @ [0.299, 0.587, 0.114]
    assert np.abs(radiograph.pixels - expected).max() <= 1
    assert [w.split(":")[0] for w in radiograph.warnings] == ["color"]


def test_a_gray_picture_in_color_channels_is_no_photograph(small, make_file):
    rgb = np.repeat(small[..., None], 3, axis=2)
    rgb[:3, :6] = (255, 0, 0)  # a colored mark
    for file_format in ("PNG", "JPEG"):
        assert load_radiograph(make_file(rgb, file_format), rendering="voi").warnings == ()


def test_cmyk_jpeg_is_not_negative(small, make_file):
    image = Image.fromarray(small).convert("RGB").convert("CMYK")
    radiograph = load_radiograph(make_file(image, "JPEG", quality=95), rendering="voi")
    assert np.abs(radiograph.pixels.astype(int) - small).mean() < 4


def test_palette_indices_are_no_grays(small, make_file):
    image = Image.fromarray(255 - small).convert("P")
    image.putpalette([value for gray in range(255, -1, -1) for value in (gray,) * 3])
    radiograph = load_radiograph(make_file(image, "PNG"), rendering="voi")
    assert np.array_equal(radiograph.pixels, np.asarray(image.convert("L")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_lie_on_black(small, make_file, mode):
    image = Image.fromarray(small).convert(mode)
    alpha = np.full(small.shape, 255, np.uint8)
    alpha[:4], alpha[4:8] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    radiograph = load_radiograph(make_file(image, "PNG"), rendering="voi")
    expected = small.astype(float) * alpha / 255
    assert np.abs(radiograph.pixels - expected).max() <= 1
    assert (radiograph.pixels[:4] == 0).all()


def test_one_transparent_value(small, phantom, minmax_of, make_file):
    data = make_file(small, "PNG", transparency=237)
    expected = np.where(small == 237, 0, small)
    assert np.array_equal(load_radiograph(data, rendering="voi").pixels, expected)
    data = make_file(phantom, "PNG", transparency=3801)
    expected = minmax_of(np.where(phantom == 3801, 0, phantom)).astype(int)
    assert np.abs(load_radiograph(data).pixels - expected).max() <= 1


@pytest.mark.parametrize("color_type, samples", [(2, 3), (4, 2), (6, 4)])
def test_deep_color_loses_depth_and_says_so(phantom, make_png16, color_type, samples):
    values = np.repeat((phantom * 16)[..., None], samples, axis=2)
    if samples in (2, 4):
        values[..., -1] = 65535
    radiograph = load_radiograph(make_png16(values, color_type), rendering="voi")
    assert np.array_equal(radiograph.pixels, phantom // 16)
    assert kinds(radiograph) == {"depth"}


def test_deep_gray_written_by_hand(phantom, minmax_of, make_png16):
    radiograph = load_radiograph(make_png16(phantom, 0))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == ()


# ---- orientation ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation(small, make_file, file_format, orientation):
    image = Image.fromarray(small)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"quality": 100} if file_format == "JPEG" else {}
    data = make_file(image, file_format, exif=exif, **options)
    tagged = Image.fromarray(small)
    tagged.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged)).astype(int)
    radiograph = load_radiograph(data, rendering="voi")
    assert radiograph.pixels.shape == expected.shape
    assert np.abs(radiograph.pixels - expected).max() <= (6 if file_format == "JPEG" else 0)
    assert radiograph.photometric["exif_orientation"] == orientation
    # Left and right change places in 2 and 4, 5 and 7; that is never silent.
    assert kinds(radiograph) == ({"mirrored"} if orientation in (2, 4, 5, 7) else set())


def test_damaged_exif_does_not_cost_the_picture(small, make_file):
    data = make_file(small, "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    radiograph = load_radiograph(data, rendering="voi")
    assert radiograph.pixels.shape == small.shape


# ---- what gives no picture -----------------------------------------------------------------


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"]
)
def test_a_cut_file_is_an_error(file_format, make_file):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    data = make_file(noise, file_format)
    for share in (0.3, 0.6, 0.9):
        kind = kind_of(data[: int(share * len(data))])
        assert kind in ("truncated_image", "broken_image")
        if file_format in ("PNG", "JPEG", "JPEG2000", "TIFF"):
            assert kind == "truncated_image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_cut_compressed_tiff_is_called_cut(phantom, make_file):
    data = make_file(phantom, "TIFF", compression="tiff_lzw")  # the directory is at the end
    assert kind_of(data[: len(data) // 2]) == "truncated_image"
    # The same with a directory that is there and points behind the end: tag 279, one long value.
    place = data.index(b"\x17\x01\x04\x00\x01\x00\x00\x00")
    data = data[: place + 8] + (10**6).to_bytes(4, "little") + data[place + 12 :]
    assert kind_of(data) == "truncated_image"


def test_a_jpeg_with_a_zero_filled_tail_is_cut(make_file):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    data = make_file(noise, "JPEG")
    half = len(data) // 2
    assert kind_of(data[:half] + b"\0" * half) in ("truncated_image", "broken_image")


def test_cut_files_fail_even_where_others_allow_them(small, make_file, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for file_format in ("PNG", "JPEG"):
        data = make_file(small, file_format)
        assert kind_of(data[: len(data) // 2]) == "truncated_image"


def test_a_png_with_a_wrong_checksum_is_broken(small, make_file):
    data = bytearray(make_file(small, "PNG"))
    data[data.index(b"IDAT") + 40] ^= 1
    assert kind_of(bytes(data)) == "broken_image"


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_several_pictures_are_refused(small, make_file, file_format):
    frames = [Image.fromarray(small), Image.fromarray(255 - small)]
    data = make_file(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert kind_of(data) == "multi_frame"


@pytest.mark.parametrize("file_format", ["GIF", "TIFF"])
def test_a_frame_is_chosen_by_its_number(small, make_file, file_format):
    frames = [Image.fromarray(small), Image.fromarray(255 - small), Image.fromarray(small // 2)]
    data = make_file(frames[0], file_format, save_all=True, append_images=frames[1:])
    for number, expected in enumerate((small, 255 - small, small // 2), 1):
        radiograph = load_radiograph(data, rendering="voi", frame=number)
        assert np.abs(radiograph.pixels.astype(int) - expected).max() <= 1
    for number in (0, 4, -1):
        with pytest.raises(ImageError, match=f"no frame {number}, the file holds 3"):
            load_radiograph(data, frame=number)


@pytest.mark.parametrize("size", [(31, 200), (200, 31)])
def test_a_picture_under_the_smallest_size_is_refused(make_file, size):
    data = make_file(np.arange(size[0] * size[1]).reshape(size).astype(np.uint8), "PNG")
    with pytest.raises(ImageError, match=r"under 32 a side") as error:
        load_radiograph(data)
    assert error.value.kind == "too_small"


def test_a_phone_picture_with_a_preview_is_one_picture(small, make_file):
    frames = [Image.fromarray(small), Image.fromarray(small).resize((10, 8))]
    data = make_file(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    radiograph = load_radiograph(data, rendering="voi")
    assert np.abs(radiograph.pixels.astype(int) - small).mean() < 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(phantom, make_file, value):
    values = phantom.astype(np.float32)
    values[3, 4] = value
    assert kind_of(make_file(values, "TIFF")) == "not_finite"


@pytest.mark.parametrize("value", [0, 7, 255])
def test_one_value_is_no_picture(make_file, value):
    assert kind_of(make_file(np.full((32, 32), value, np.uint8), "PNG")) == "constant_image"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_a_huge_picture_is_refused_unread(make_file, file_format):
    data = make_file(Image.new("1" if file_format != "JPEG" else "L", (9000, 9000)), file_format)
    assert kind_of(data) == "too_large"


def test_a_decompression_bomb_is_refused(make_file):
    assert kind_of(make_file(Image.new("1", (20000, 20000)), "PNG")) == "too_large"
