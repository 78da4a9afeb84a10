"""Files, folders, globs and manifests become studies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import Study, StudyImage, expand_inputs, save_manifest
from llava_rad.data.inputs import files_of
from llava_rad.errors import DataError

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 8

FILES = {
    "b.PNG": b"",
    "a.dcm": b"",
    "sub/c.jpeg": b"",
    "sub/1.2.840.113": DICOM,
    "sub/bare": b"\x08\x00\x05\x00" + b"\0" * 200,
    "sub/notes.txt": b"",
    "sub/1.2.3": b"no image",
    "README": b"text",
    "DICOMDIR": DICOM,
    ".hidden.png": b"",
    ".git/x.png": b"",
}


@pytest.fixture
def folder(tree: Callable[..., Path]) -> Path:
    return tree(FILES)


def names(studies: list[Study], folder: Path) -> list[str]:
    return [os.path.relpath(study.study_id, folder) for study in studies]


def test_a_folder_gives_its_images_sorted(folder: Path) -> None:
    studies = expand_inputs([str(folder)])
    assert names(studies, folder) == [
        "a.dcm",
        "b.PNG",
        "sub/1.2.840.113",
        "sub/bare",
        "sub/c.jpeg",
    ]
    assert all(s.images == (StudyImage(s.study_id),) for s in studies)


def test_a_named_file_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    studies = expand_inputs(["./sub/notes.txt", "b.PNG", Path("a.dcm"), "b.PNG"])
    assert [study.study_id for study in studies] == ["./sub/notes.txt", "b.PNG", "a.dcm"]


def test_a_glob(folder: Path) -> None:
    assert names(expand_inputs([f"{folder}/*.[dP]*"]), folder) == ["a.dcm", "b.PNG"]
    assert names(expand_inputs([f"{folder}/**/c.*"]), folder) == ["sub/c.jpeg"]
    assert names(expand_inputs([f"{folder}/su*"]), folder) == [
        "sub/1.2.840.113",
        "sub/bare",
        "sub/c.jpeg",
    ]


def test_a_file_whose_name_looks_like_a_glob(tree: Callable[..., Path]) -> None:
    root = tree({"scan[1].png": b""})
    (study,) = expand_inputs([root / "scan[1].png"])
    assert study.images[0].path == str(root / "scan[1].png")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_manifest(folder: Path, ending: str) -> None:
    study = Study("s", "p", images=(StudyImage(str(folder / "a.dcm")),), indication="Cough")
    save_manifest([study], folder / f"m.{ending}")
    assert expand_inputs([folder / f"m.{ending}", folder / f"m.{ending}"]) == [study]


@pytest.mark.parametrize("missing", ["nowhere.png", "nowhere/*.png", "empty"])
def test_an_input_without_files_is_an_error(folder: Path, missing: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=missing.replace("*", r"\*")) as caught:
        expand_inputs([str(folder / "a.dcm"), str(folder / missing)])
    assert caught.value.kind == "no_input"


def test_two_studies_of_one_id_are_refused(tmp_path: Path) -> None:
    save_manifest([Study("s", "p")], tmp_path / "a.jsonl")
    save_manifest([Study("s", "q")], tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="two different studies"):
        expand_inputs([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_the_files_of_studies_hold_the_tables_of_their_masks() -> None:
    masks = {"heart": "organs.csv#120-9e0f3a1c:Heart", "lungs": "lungs.png"}
    study = Study("s", "p", images=(StudyImage("a.png", masks=masks),))
    assert list(files_of([study], ["m.jsonl"])) == ["m.jsonl", "a.png", "organs.csv", "lungs.png"]
