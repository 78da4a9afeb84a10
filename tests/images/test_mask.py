"""Masks: what is inside, in every form that masks are stored in."""

import numpy as np
import pytest
from PIL import Image

from llava_rad.errors import ImageError
from llava_rad.images import geometry_of, load_mask, load_radiograph


@pytest.fixture
def labels():
    """Labels 0, 1, 2 and 3 over 24 x 30 pixels, no turn of it like another."""
    labels = np.zeros((24, 30), np.uint8)
    labels[2:9, 3:12], labels[10:20, 5:9], labels[4:7, 20:29] = 1, 2, 3
    return labels


def test_labels_of_every_depth(labels, make_file, make_png16):
    for data in (
        make_file(labels, "PNG"),
        make_file(labels, "TIFF"),
        make_file(labels, "BMP"),
        make_file(labels.astype(np.uint16), "PNG"),
        make_file(labels.astype(np.uint16), "TIFF"),
        make_file(labels.astype(np.int32), "TIFF"),
        make_file(labels.astype(np.float32), "TIFF"),
        make_file(np.repeat(labels[..., None], 3, axis=2), "PNG"),
        make_file(labels, "JPEG2000", irreversible=False),
    ):
        assert np.array_equal(load_mask(data), labels > 0)
        for value in (0, 1, 2, 3, 4):
            assert np.array_equal(load_mask(data, value=value), labels == value)


def test_high_labels_of_16_bits(labels, make_file):
    data = make_file(labels.astype(np.uint16) * 256, "PNG")
    assert np.array_equal(load_mask(data), labels > 0)
    assert np.array_equal(load_mask(data, value=512), labels == 2)


def test_one_bit(labels, make_file):
    for file_format in ("PNG", "TIFF"):
        data = make_file(Image.fromarray(labels > 1), file_format)
        assert np.array_equal(load_mask(data), labels > 1)
        assert np.array_equal(load_mask(data, value=1), labels > 1)


def test_a_palette_gives_its_indices_and_not_its_colors(labels, make_file):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0, 9, 9, 9])  # white outside, black inside
    for options in ({}, {"transparency": 1}):
        data = make_file(image, "PNG", **options)
        assert np.array_equal(load_mask(data), labels > 0)
        assert np.array_equal(load_mask(data, value=2), labels == 2)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_outside(labels, make_file, mode):
    white = Image.new(mode, (30, 24), "white")
    white.putalpha(Image.fromarray(np.where(labels, 255, 0).astype(np.uint8)))
    assert np.array_equal(load_mask(make_file(white, "PNG")), labels > 0)
    black = Image.new(mode, (30, 24), "black")
    black.putalpha(Image.fromarray(np.where(labels, 128, 0).astype(np.uint8)))
    assert np.array_equal(load_mask(make_file(black, "PNG")), labels > 0)
    opaque = Image.fromarray(labels).convert(mode)
    assert np.array_equal(load_mask(make_file(opaque, "PNG")), labels > 0)
    assert np.array_equal(load_mask(make_file(opaque, "PNG"), value=2), labels == 2)


def test_colors(labels, make_file):
    rgb = np.zeros((24, 30, 3), np.uint8)
    rgb[labels == 1], rgb[labels == 2], rgb[labels == 3] = (0, 0, 1), (255, 0, 0), (0, 9, 0)
    data = make_file(rgb, "PNG")
    assert np.array_equal(load_mask(data), labels > 0)
    with pytest.raises(ImageError, match="in color") as error:
        load_mask(data, value=1)
    assert error.value.kind == "no_labels"


def test_jpeg_edges_are_sharpened(labels, make_file):
    large = np.kron(labels > 0, np.ones((8, 8), bool))
    data = make_file(np.where(large, 255, 0).astype(np.uint8), "JPEG", quality=60)
    assert (load_mask(data) != large).mean() < 0.002
    with pytest.raises(ImageError, match="blurs"):
        load_mask(data, value=255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_exif_turns_a_mask_as_it_turns_its_picture(
    labels, make_file, tmp_path, orientation, file_format
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = np.kron(labels > 0, np.full((2, 2), 255, np.uint8))
    data = make_file(large, file_format, exif=exif)
    picture = load_radiograph(data, rendering="voi").pixels
    mask = load_mask(data)
    assert mask.shape == picture.shape
    assert (mask != (picture > 127)).mean() < 0.01
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert geometry_of(path).shape == picture.shape


def test_stored_values_of_dicom(labels, make_dicom):
    data = make_dicom(labels.astype(np.uint16), WindowCenter=1, WindowWidth=1)
    assert np.array_equal(load_mask(data), labels > 0)
    assert np.array_equal(load_mask(data, value=3), labels == 3)


def test_files_that_are_none(labels, make_file, tmp_path):
    frames = [Image.fromarray(labels), Image.fromarray(labels * 9)]
    several = make_file(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    for source, kind in (
        (tmp_path / "none.png", "not_found"),
        (b"text", "not_dicom"),
        (several, "multi_frame"),
        (make_file(labels, "PNG")[:-20], "truncated_image"),
    ):
        with pytest.raises(ImageError) as error:
            load_mask(source)
        assert error.value.kind == kind


@pytest.mark.parametrize(
    "spacing, shape", [([0.2, 0.1], (68, 40)), ([0.1, 0.2], (34, 80)), ([0.1, 0.1], (34, 40))]
)
def test_the_geometry_of_a_file_is_that_of_its_picture(
    phantom, make_dicom, tmp_path, spacing, shape
):
    path = tmp_path / "a.dcm"
    path.write_bytes(make_dicom(phantom, PixelSpacing=spacing))
    geometry, radiograph = geometry_of(path), load_radiograph(path)
    assert geometry.shape == radiograph.pixels.shape == shape
    assert geometry.stored == (34, 40)
    assert geometry.scale == radiograph.scale
