"""Pictures that are in memory go through the door of the files."""

import io

import numpy as np
import pytest
import torch
from helpers.dicom_files import dicom_bytes
from PIL import Image

from llava_rad.errors import ImageError
from llava_rad.images import is_picture_source, load_radiograph


def pixels(dtype=np.uint8, shape=(70, 60)):
    high = 256 if dtype == np.uint8 else 4096
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def stored(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def same(first, second):
    assert np.array_equal(first.pixels, second.pixels)
    assert (first.rendering, first.warnings) == (second.rendering, second.warnings)
    assert first.photometric["value_range"] == second.photometric["value_range"]


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(pixels()),
        Image.fromarray(pixels(np.uint16)),
        Image.fromarray(pixels(shape=(70, 60, 3))),
        Image.fromarray(pixels(shape=(70, 60, 4))),
        Image.fromarray(pixels()).convert("P"),
    ],
    ids=["L", "I;16", "RGB", "RGBA", "P"],
)
def test_a_picture_of_pillow_is_read_as_its_file(image, rendering):
    file = load_radiograph(stored(image, "PNG"), rendering=rendering)
    same(load_radiograph(image, rendering=rendering), file)
    if image.mode != "P":
        same(load_radiograph(np.asarray(image), rendering=rendering), file)


def test_the_orientation_of_a_photograph_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 5
    content = stored(Image.fromarray(pixels()), "JPEG", exif=exif)
    opened = Image.open(io.BytesIO(content))
    same(load_radiograph(opened), load_radiograph(content))
    assert load_radiograph(opened).pixels.shape == (60, 70)


def test_a_frame_is_chosen_and_the_picture_stays_where_it_was():
    frames = [Image.fromarray(pixels(shape=(70, 60)) // (i + 1)) for i in range(3)]
    content = stored(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    opened = Image.open(io.BytesIO(content))
    opened.seek(1)
    with pytest.raises(ImageError, match="3 frames"):
        load_radiograph(opened)
    same(load_radiograph(opened, frame=3), load_radiograph(content, frame=3))
    assert opened.tell() == 1


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float16, np.float64, bool])
def test_arrays_of_other_numbers_are_spread_over_the_grays(dtype):
    values = pixels() > 127 if dtype is bool else pixels().astype(dtype)
    low, high = values.min(), values.max()
    expected = np.rint((values.astype(float) - low) / (float(high) - low) * 255)
    assert np.array_equal(load_radiograph(values).pixels, expected)


def test_one_channel_and_tensors_are_the_picture():
    expected = load_radiograph(pixels()).pixels
    for array in (pixels()[None], pixels()[..., None], torch.from_numpy(pixels())):
        assert np.array_equal(load_radiograph(array).pixels, expected)
    turned = pixels()[::-1].T
    assert np.array_equal(load_radiograph(turned).pixels, load_radiograph(turned.copy()).pixels)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((2, 64, 64)), "wrong_shape"),
        (np.zeros(64), "wrong_shape"),
        (np.zeros((64, 64, 3)), "wrong_shape"),
        (np.array([["a"] * 64] * 64), "wrong_shape"),
        (np.zeros((64, 64), complex), "wrong_shape"),
        (np.zeros((8, 64)), "too_small"),
        (np.zeros((64, 64)), "constant_image"),
        (np.full((64, 64), np.nan), "not_finite"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, kind):
    with pytest.raises(ImageError) as failure:
        load_radiograph(array)
    assert failure.value.kind == kind


def test_a_cut_picture_of_pillow_is_an_error():
    content = stored(Image.fromarray(pixels(shape=(300, 300))), "PNG")
    with pytest.raises(ImageError):
        load_radiograph(Image.open(io.BytesIO(content[:500])))


def test_a_radiograph_comes_back_as_it_is_or_is_refused():
    radiograph = load_radiograph(dicom_bytes(ViewPosition="PA"))
    assert load_radiograph(radiograph) is radiograph
    with pytest.raises(ImageError, match="rendering='voi'"):
        load_radiograph(radiograph, rendering="voi")


def test_a_radiograph_is_an_array_and_short_to_look_at():
    radiograph = load_radiograph(dicom_bytes(ViewPosition="PA"), name="a\nb.dcm")
    assert np.asarray(radiograph) is radiograph.pixels
    assert np.asarray(radiograph, dtype=np.float32).dtype == np.float32
    copied = np.array(radiograph)
    copied[:] = 0
    assert radiograph.pixels.any()
    assert repr(radiograph) == r"<Radiograph 64 x 64, PA, minmax, a\nb.dcm>"
    assert "frontal view" not in repr(load_radiograph(pixels()))
    with Image.open(io.BytesIO(radiograph._repr_jpeg_())) as shown:
        assert shown.size == (64, 64)


def test_one_is_told_from_several():
    one = ("a.png", b"", io.BytesIO(), Image.new("L", (1, 1)), pixels(), torch.zeros(3, 3))
    assert all(map(is_picture_source, one))
    assert not any(map(is_picture_source, (["a.png"], ("a",), np.array(["a"]), iter("ab"), 3)))
