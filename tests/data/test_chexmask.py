"""CheXmask: masks for the images of a manifest, left in their tables."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, Study, StudyImage, convert, load_manifest, save_manifest
from llava_rad.data.chexmask import read
from llava_rad.data.mask_rows import MaskRows
from llava_rad.errors import ConfigError, DataError

COLUMNS = "Dice RCA (Mean),Dice RCA (Max),Landmarks,Left Lung,Right Lung,Heart,Height,Width"
# Landmarks are written as numpy prints them, over several lines.
ROW = '{},0.9,"[[ 1 2]\n [ 3 4]]",2 2 7 1,1 1,{},3,4\n'


def table(column: str, *names: str, quality: str = "0.85", heart: str = "12 1") -> str:
    return f"{column},{COLUMNS}\n" + "".join(f"{n},{ROW.format(quality, heart)}" for n in names)


def manifest(folder: Path, *images: tuple[str, str], source: str = "nih", **given: str) -> Path:
    """Studies of one image each: path below the folder, and view."""
    studies = [
        Study(
            f"s{i}", f"p{i}", images=(StudyImage(str(folder / p), v, masks=given),), source=source
        )
        for i, (p, v) in enumerate(images)
    ]
    save_manifest(studies, folder / "images.jsonl")
    return folder / "images.jsonl"


def test_masks_of_nih_images(tree: Callable[..., Path]) -> None:
    names = ("00000001_000.png", "00000002_000.png", "00000009_000.png")
    root = tree(
        {
            "OriginalResolution/ChestX-Ray8.csv": table("Image Index", *names),
            # Of another data set, and so not read: it would be refused.
            "OriginalResolution/Padchest.csv": f"ImageID,{COLUMNS}\na.png,1\n",
        }
    )
    images = [(f"images/{name}", "frontal") for name in (*names[:2], "00000003_000.png")]
    path = manifest(root.parent, *images, heart="drawn.png")
    log = ConversionLog()
    studies = list(read(root, log, manifest=str(path)))
    assert [study.study_id for study in studies] == ["s0", "s1", "s2"]
    assert {study.source for study in studies} == {"nih"}
    masks = studies[1].images[0].masks
    assert masks["heart"].endswith("drawn.png")  # what the image had before stays
    place = MaskRows.parse(masks["left_lung"])
    assert place is not None
    (row,) = place.read()
    assert (row["Image Index"], row["Left Lung"]) == (names[1], "2 2 7 1")
    assert (row["Height"], row["Width"]) == ("3", "4")
    assert list(studies[2].images[0].masks) == ["heart"]
    assert log.left_out == {}


@pytest.mark.parametrize(
    ("column", "name", "source", "image"),
    [
        ("Path", "train/patient1/study2/view1_frontal.jpg", "chexpert", "c/{}"),
        ("Path", "train/patient1/study2/view1_frontal.jpg", "chexpert-plus", "PNG/{}"),
        ("dicom_id", "02aa804e-bde0afdd", "mimic-cxr", "files/p10/p1/s1/{}.jpg"),
        ("ImageID", "2168_00-141-160.png", "padchest", "0/{}"),
        ("image_id", "9a5094b2563a1ef3", "vindr-cxr", "train/{}.dicom"),
        ("image_id", "9a5094b2563a1ef3", "my own", "{}.png"),
    ],
)
def test_the_names_of_each_data_set(
    tree: Callable[..., Path], column: str, name: str, source: str, image: str
) -> None:
    root = tree({"any.csv": table(column, name, heart="")})
    path = manifest(root.parent, (image.format(name), "frontal"), source=source)
    (study,) = read(root, ConversionLog(), manifest=str(path))
    assert list(study.images[0].masks) == ["left_lung", "right_lung"]


def test_images_without_a_good_mask_are_noted(tree: Callable[..., Path]) -> None:
    good, bad = "00000001_000.png", "00000002_000.png"
    text = table("Image Index", good) + f"{bad},{ROW.format('0.69', '')}"
    root = tree({"ChestX-Ray8.csv": text})
    path = manifest(root.parent, (good, "frontal"), (bad, "frontal"), ("c.png", "lateral"))
    log = ConversionLog()
    assert len(list(read(root, log, manifest=str(path)))) == 3
    assert log.noted == {"mask_below_quality": [bad.removesuffix(".png")], "no_mask": ["s1"]}
    log = ConversionLog()
    list(read(root, log, manifest=str(path), quality="0.6"))
    assert log.noted == {}


def test_a_manifest_with_masks_is_read_again(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree({"ChestX-Ray8.csv": table("Image Index", "a.png", "b.png")})
    path = manifest(tmp_path, ("a.png", "frontal"), ("b.png", "frontal"))
    output = tmp_path / "deep" / "masked.jsonl"
    convert("chexmask", root, output, manifest=str(path))
    place = MaskRows.parse(load_manifest(output)[1].images[0].masks["heart"])
    assert place is not None and place.read()[0]["Image Index"] == "b.png"
    text = (root / "ChestX-Ray8.csv").read_text()
    for other in (text.replace("12 1", "12 2"), text[:-40], "other,table\n1,2\n"):
        (root / "ChestX-Ray8.csv").write_text(other)
        with pytest.raises(DataError, match="are not those that the manifest was made from"):
            place.read()
    (root / "ChestX-Ray8.csv").unlink()
    with pytest.raises(DataError, match="missing"):
        place.read()


def test_what_is_missing_is_said(tree: Callable[..., Path]) -> None:
    root = tree({"ChestX-Ray8.csv": table("Image Index", "a.png"), "packed/NIH.csv.gz": ""})
    path = str(manifest(root.parent, ("other.png", "frontal")))
    wrong: list[tuple[Path, dict[str, str], type[Exception], str]] = [
        (root, {}, ConfigError, "manifest"),
        (root, {"manifest": path, "quality": "high"}, ConfigError, "'high'"),
        (root, {"manifest": path}, DataError, "no image of .* has a mask"),
        (root / "packed", {"manifest": path}, DataError, "packed"),
    ]
    for folder, options, kind, says in wrong:
        with pytest.raises(kind, match=says):
            list(read(folder, ConversionLog(), **options))
