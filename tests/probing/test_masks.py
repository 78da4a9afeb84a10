import json

import numpy as np
import pytest
from helpers.run_lengths import absolute_runs, relative_runs
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from llava_rad.data import Study, StudyImage
from llava_rad.data.mask_rows import MaskRows
from llava_rad.errors import ConfigError, DataError
from llava_rad.images import load_radiograph
from llava_rad.probing.examples import Example
from llava_rad.probing.masks import image_id, open_masks, require_both_sides
from llava_rad.readers import read_table


@pytest.fixture
def example(tmp_path):
    """An image of 40 x 60 pixels (height x width), named by a UID as DICOM files are."""
    path = tmp_path / "1.2.826.17"
    Image.new("L", (60, 40), 9).save(path, "PNG")
    image = StudyImage(str(path))
    return Example(Study("s", "p", images=(image,)), image)


def square(rows, columns):
    mask = np.zeros((1024, 1024), bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("header", "unlisted"),
    [
        ("ImageId, EncodedPixels", None),  # SIIM-ACR, with its blank
        ("SOPInstanceUID,EncodedPixels", None),  # CANDID-PTX
        ("anon_SOPUID,mask_rle", False),
    ],
)
def test_tables_of_run_lengths(example, tmp_path, header, unlisted):
    first, second = square(slice(3, 9), slice(5, 6)), square(slice(100, 200), slice(300, 400))
    table = tmp_path / "runs.csv"
    rows = [
        f"1.2.826.17,{relative_runs(first)}",
        f"1.2.826.17,{relative_runs(second)}",
        "9.9,-1",
        "9.8,",
    ]
    table.write_text("\n".join([header, *rows]) + "\n")
    (source,) = open_masks([f"pneumothorax={table}"])
    assert source.structures == ("pneumothorax",)
    (mask,) = source.read(example)
    np.testing.assert_array_equal(mask, first | second)

    def named(name):
        (tmp_path / name).write_bytes((tmp_path / "1.2.826.17").read_bytes())
        image = StudyImage(str(tmp_path / name))
        return source.read(Example(Study("t", "q", images=(image,)), image))[0]

    assert not named("9.9").any()
    other = named("7.7")
    assert other is None if unlisted is None else not other.any()
    if unlisted is None:
        assert named("9.8") is None  # not annotated


def test_a_table_of_another_layout_says_what_is_known(tmp_path):
    (tmp_path / "t.csv").write_text("image,mask\na,1 2\n")
    with pytest.raises(DataError, match=r"image, mask.*ImageId and EncodedPixels"):
        open_masks([f"x={tmp_path / 't.csv'}"])


def test_rib_polygons(example, tmp_path):
    corners = [{"x": 10, "y": 5}, {"x": 30, "y": 5}, {"x": 30, "y": 15}, {"x": 10, "y": 15}]
    ribs = {
        "img": {"0": "data/other.png", "1": f"data/{image_id_of(example)}.png"},
        "R1": {"0": "None", "1": corners},
        "L1": {"0": corners, "1": "None"},
    }
    (tmp_path / "ribs.json").write_text(json.dumps(ribs))
    (source,) = open_masks([str(tmp_path / "ribs.json")])
    right, left = source.read(example)
    assert right.shape == (40, 60) and right.sum() == 21 * 11
    assert right[5:16, 10:31].all()
    assert not left.any()
    assert source.structures == ("R1", "L1")


def image_id_of(example):
    return example.path.rsplit("/", 1)[-1]


def test_names_without_an_ending_keep_their_last_number(tmp_path):
    assert image_id(tmp_path / "1.2.826.17") == "1.2.826.17"
    assert image_id(tmp_path / "1.2.826.17.dcm") == "1.2.826.17"
    assert image_id(tmp_path / "a.b.PNG") == "a.b"


def test_folders_of_pictures(example, tmp_path):
    folder = tmp_path / "hearts"
    folder.mkdir()
    mask = np.zeros((80, 120), np.uint8)  # twice the image's size
    mask[:10] = 255
    Image.fromarray(mask).save(folder / "1.2.826.17.png")
    (source,) = open_masks([f"heart={folder}"])
    (read,) = source.read(example)
    assert read.sum() == 10 * 120

    Image.new("L", (50, 50)).save(folder / "1.2.826.17.png")
    with pytest.raises(DataError, match="50 x 50, its image 60 x 40"):
        source.read(example)
    (folder / "1.2.826.17.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        source.read(example)


def test_one_label_of_a_map_of_several(example, tmp_path):
    folder = tmp_path / "maps:1"  # a colon in the name is no value where there is such a folder
    folder.mkdir()
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 10:20], labels[5:9, 30:50] = 1, 2
    image = Image.fromarray(labels, "L").convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0])  # label 1 is shown black
    image.save(folder / "1.2.826.17.png")
    sources = open_masks([f"lung={folder}:1", f"heart={folder}:2", f"any={folder}"])
    lung, heart, both = (source.read(example)[0] for source in sources)
    assert np.array_equal(lung, labels == 1)
    assert np.array_equal(heart, labels == 2)
    assert np.array_equal(both, labels > 0)
    with pytest.raises(ConfigError, match="FOLDER:VALUE"):
        open_masks([f"x={folder}:two"])


def write_dicom(path, spacing, shape=(40, 60)):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.Rows, dataset.Columns = shape
    dataset.PixelSpacing = spacing
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.arange(shape[0] * shape[1]).astype(np.uint8).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    image = StudyImage(str(path))
    return Example(Study("s", "p", images=(image,)), image)


def test_masks_follow_pixels_that_were_made_square(tmp_path):
    example = write_dicom(tmp_path / "1.2.826.17", [0.2, 0.1])
    picture = load_radiograph(example.path)
    assert picture.pixels.shape == (80, 60) and picture.scale == (2.0, 1.0)
    folder = tmp_path / "hearts"
    folder.mkdir()
    stored = np.zeros((40, 60), np.uint8)
    stored[10:20, 30:50] = 1
    expected = np.repeat(stored > 0, 2, axis=0)
    for kept in (stored, np.repeat(stored, 2, axis=0)):  # over stored pixels, or the picture's
        Image.fromarray(kept).save(folder / "1.2.826.17.png")
        (mask,) = open_masks([f"heart={folder}"])[0].read(example)
        assert np.array_equal(mask, expected)

    corners = [{"x": x, "y": y} for x, y in ((10, 5), (30, 5), (30, 15), (10, 15))]
    (tmp_path / "ribs.json").write_text(
        json.dumps({"img": {"0": "1.2.826.17"}, "R1": {"0": corners}})
    )
    (mask,) = open_masks([str(tmp_path / "ribs.json")])[0].read(example)
    assert mask.shape == (80, 60)
    assert mask[10:31, 10:31].all() and mask.sum() == 21 * 21

    square = write_dicom(tmp_path / "1.2.826.18", [0.2, 0.1], shape=(64, 64))
    runs = np.zeros((1024, 1024), bool)
    runs[256:512, 128:256] = True
    (tmp_path / "runs.csv").write_text(f"ImageId,EncodedPixels\n1.2.826.18,{relative_runs(runs)}\n")
    (mask,) = open_masks([f"x={tmp_path / 'runs.csv'}"])[0].read(square)
    assert mask.shape == (128, 64)
    assert mask[32:64, 8:16].all() and mask.sum() == 32 * 8


def test_masks_that_say_nothing_are_refused():
    known = np.array([[True, True], [True, False], [True, True]])
    divided = np.array([[True, True], [False, False], [False, False]])
    require_both_sides(("heart", "lungs"), known, divided)
    divided[0, 1] = False
    with pytest.raises(DataError, match="all 2 masks of lungs are empty or cover the whole image"):
        require_both_sides(("heart", "lungs"), known, divided)
    require_both_sides(("heart", "lungs"), known & [True, False], divided)  # none is none


def test_structures_of_the_manifest(example, tmp_path):
    (source,) = open_masks([])
    assert source.structures == ("lungs",)
    assert source.read(example) == [None]
    masks = {"lungs": str(tmp_path / "lungs.png"), "heart": str(tmp_path / "heart.png")}
    Image.new("L", (60, 40), 255).save(masks["lungs"])
    Image.new("L", (60, 40), 0).save(masks["heart"])
    image = StudyImage(example.path, masks=masks)
    of_image = Example(Study("s", "p", images=(image,)), image)
    read = [s.read(of_image)[0] for s in open_masks(["lungs", "heart", "left_clavicle"])]
    assert read[0].all() and not read[1].any() and read[2] is None


def test_run_lengths_that_a_manifest_names(example, tmp_path):
    siim, chexmask = tmp_path / "train-rle.csv", tmp_path / "CheXpert.csv"
    rng = np.random.default_rng(1)
    first, second = square(slice(3, 90), slice(5, 60)), square(slice(100, 200), slice(300, 400))
    siim.write_text(
        f"ImageId, EncodedPixels\na, {relative_runs(first)}\nb, -1\na, {relative_runs(second)}\n"
    )
    lung, heart = rng.random((40, 60)) < 0.3, rng.random((80, 120)) < 0.3
    chexmask.write_text(
        "Path,Left Lung,Heart,Height,Width\n"
        f"a,{absolute_runs(lung)},,40,60\nb,1 1,{absolute_runs(heart)},80.0,120.0\n"
        "c,1 1,1 1,60,60\nd,1 1,1 1,1e9,60\n"
    )
    regions, organs = list(read_table(siim)), list(read_table(chexmask))

    def read(table, rows, column, path=example.path):
        image = StudyImage(path, masks={"x": str(MaskRows.of(table, rows, column))})
        return open_masks(["x"])[0].read(Example(Study("s", "p", images=(image,)), image))[0]

    # Whatever the size of the mask, its shape is the picture's.
    Image.new("L", (64, 64)).save(tmp_path / "square.png")
    whole = read(siim, [regions[0], regions[2]], "EncodedPixels", str(tmp_path / "square.png"))
    np.testing.assert_array_equal(whole, first | second)
    assert not read(siim, [regions[1]], "EncodedPixels", str(tmp_path / "square.png")).any()
    np.testing.assert_array_equal(read(chexmask, organs[:1], "Left Lung"), lung)
    np.testing.assert_array_equal(read(chexmask, organs[1:2], "Heart"), heart)
    with pytest.raises(DataError, match="the mask is 60 x 60, its image 60 x 40"):
        read(chexmask, organs[2:3], "Heart")
    with pytest.raises(DataError, match="'1e9' and '60'"):
        read(chexmask, organs[3:], "Heart")


def test_masks_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        open_masks(["heart=missing"])
    with pytest.raises(ConfigError, match="named twice"):
        open_masks(["lungs", f"lungs={tmp_path}"])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="rib polygons"):
        open_masks([str(tmp_path / "x.json")])
