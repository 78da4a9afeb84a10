"""Which files of a folder, a pattern or a tar shard are radiographs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.dicom_files import dicom_bytes
from pydicom import uid as uids

from llava_rad.data import ConversionLog, expand_images, expand_inputs
from llava_rad.data.image_files import find_images
from llava_rad.dinov2.image_sources import image_folder
from llava_rad.errors import DataError, ImageError
from llava_rad.images import load_radiograph

PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = {
    "A.dcm": dicom_bytes(seed=1),
    "B.img": dicom_bytes(seed=2),
    "1.2.840.1.6_1": dicom_bytes(seed=3),
    "IM-0001-0001.dcm30": dicom_bytes(seed=4),
    "E.dicm": dicom_bytes(seed=5),
    "noending": dicom_bytes(seed=6),
    "photo.dat": PNG,
    "broken.PNG": b"no picture, but who calls it so wants to know",
    "sub/deep/x.JPG": b"",
}
OTHERS = {
    "DICOMDIR": ("dicom_without_picture", dicom_bytes(sop_class="1.2.840.10008.1.3.10")),
    "report.dcm": ("dicom_without_picture", dicom_bytes(sop_class=uids.BasicTextSRStorage)),
    "notes.txt": ("companion", dicom_bytes()),
    "table.CSV": ("companion", b"a,b"),
    ".hidden.png": ("hidden", PNG),
    "__MACOSX/._A.dcm": ("hidden", b"\0\5\x16\7"),
    "program.bin": ("no_picture", b"\x7fELF" + b"\0" * 200),
    "BMW": ("no_picture", b"BMW and other cars"),
    "empty": ("no_picture", b""),
}


@pytest.fixture
def folder(tree: Callable[..., Path]) -> Path:
    root = tree({**PICTURES, **{name: content for name, (_, content) in OTHERS.items()}})
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(PNG)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    return root


def below(root: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, root) for path in paths]


def test_content_decides_and_the_rest_is_listed(folder: Path) -> None:
    found = find_images(folder)
    assert below(folder, found.images) == sorted(PICTURES)
    wanted: dict[str, list[str]] = {"hidden": [".git"], "unreadable": ["gone.png"]}
    for name, (reason, _) in OTHERS.items():
        wanted.setdefault(reason, []).append(name)
    passed_over = {r: sorted(below(folder, paths)) for r, paths in found.passed_over.items()}
    assert passed_over == {reason: sorted(names) for reason, names in wanted.items()}


def test_every_way_in_takes_the_same_files(folder: Path) -> None:
    log = ConversionLog()
    studies = expand_inputs([folder], log=log)
    assert below(folder, [study.study_id for study in studies]) == sorted(PICTURES)
    assert sum(map(len, log.left_out.values())) == len(OTHERS) + 2
    for pattern in ("", "/**"):
        images = expand_images([f"{folder}{pattern}"])
        assert below(folder, images) == sorted(PICTURES)
    pretraining = [str(path) for path in image_folder(folder).paths]
    assert below(folder, pretraining) == sorted(PICTURES)
    readable = {p for p in pretraining if _is_read(p)}
    assert len(readable) == 6  # the DICOM files


def _is_read(path: str) -> bool:
    try:
        return load_radiograph(path).pixels.shape == (64, 64)
    except ImageError:
        return False


def test_links_that_go_round_are_walked_once(tree: Callable[..., Path]) -> None:
    root = tree({"a/x.png": PNG, "b/y.png": PNG})
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "again").symlink_to(root / "a")
    (root / "b" / "other").symlink_to(root / "a")
    for given in (f"{root}", f"{root}/**", f"{root}/**/*.png", f"{root}/**/**/*.png"):
        assert sorted(Path(p).name for p in expand_images([given])) == ["x.png", "y.png"], given
    assert below(root, find_images(root).images) == ["a/x.png", "b/y.png"]


def test_patterns(tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(
        {"a.png": PNG, "s/b.png": PNG, "s/t/c.png": PNG, "s/t/d.jpg": PNG, "[x]/e.png": PNG}
    )
    monkeypatch.chdir(root)
    assert expand_images(["**/*.png"]) == ["[x]/e.png", "a.png", "s/b.png", "s/t/c.png"]
    assert expand_images(["s/**/t/*.png"]) == ["s/t/c.png"]
    assert expand_images(["s/**/?.*"]) == ["s/b.png", "s/t/c.png", "s/t/d.jpg"]
    assert expand_images(["?/**/t/**/*.png", "s"]) == ["s/t/c.png", "s/b.png", "s/t/d.jpg"]
    with pytest.raises(DataError, match="matches no file"):
        expand_images(["**/*.tif"])


def test_a_folder_without_images_says_what_it_holds(tree: Callable[..., Path]) -> None:
    root = tree({"a.txt": "x", "b.bin": "y"})
    with pytest.raises(DataError, match=r"companion: 1 .*a\.txt.*no_picture: 1 .*b\.bin") as caught:
        expand_inputs([root])
    assert caught.value.kind == "no_input"


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "d/" * 2500 + "x.png", "nul\0.png", "\ud800"])
def test_a_name_that_no_system_has_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        expand_inputs([f"{tmp_path}/{name}"])
    assert caught.value.kind == "no_input"
    str(caught.value).encode()
