"""`convert`, through a real adapter: the manifest, its report, options and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ADAPTERS, adapter_options, convert, hash_manifest, load_manifest
from llava_rad.errors import ConfigError, DataError

NAMES = {
    "mimic-cxr",
    "llava-rad",
    "openi",
    "iu-xray",
    "chexmask",
    "chexpert",
    "chexpert-plus",
    "rexgradient",
    "rexrank",
    "rsna",
    "siim-acr",
    "padchest",
    "padchest-gr",
    "nih",
    "vindr-cxr",
    "brax",
    "candid-ptx",
    "covid",
    "jsrt",
    "kermany",
    "folder",
    "csv",
}


@pytest.fixture
def reports(tree: Callable[..., Path]) -> Path:
    """Twenty images with a report each, and one broken pair of either kind."""
    files = {f"case{i}.png": "" for i in range(20)}
    files |= {f"case{i}.txt": "FINDINGS: Clear." for i in range(20)}
    return tree({**files, "alone.png": "", "orphan.txt": "FINDINGS: Lost."})


def test_every_data_set_is_there() -> None:
    assert set(ADAPTERS) == NAMES


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_convert_writes_manifest_and_report(tmp_path: Path, reports: Path, ending: str) -> None:
    output = tmp_path / "out" / f"m.{ending}"
    report = convert("folder", reports, output)
    assert (report.studies, report.images, report.with_findings) == (21, 21, 20)
    assert report.splits == {"none": 21}
    assert report.left_out == {"text_without_image": ["orphan.txt"]}
    assert report.noted["no_text_file"] == ["alone"]
    # No file names a patient, which a split would have to know.
    assert len(report.noted["no_patient_id"]) == 21
    assert report.sha256 == hash_manifest(output)
    assert len(load_manifest(output)) == 21
    written = json.loads((output.parent / f"m.{ending}.report.json").read_text())
    assert written["left_out"] == report.left_out
    assert written["sha256"] == report.sha256


def test_convert_holds_patients_out(tmp_path: Path, reports: Path) -> None:
    report = convert("folder", reports, tmp_path / "m.jsonl", validation=0.2, test=0.2)
    assert set(report.splits) == {"train", "validation", "test"}


def test_options_reach_the_adapter(tmp_path: Path, reports: Path) -> None:
    convert("folder", reports, tmp_path / "m.jsonl", patient=r"case(\d)", text_headers="true")
    patients = {study.patient_id for study in load_manifest(tmp_path / "m.jsonl")}
    assert patients == set("0123456789")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("open-i", {}, "'openi'"),
        ("folder", {"pateint": "x"}, "'patient'"),
        ("folder", {"name": "x"}, "no option 'name'"),
        ("folder", {"text_headers": "maybe"}, "true or false"),
        ("folder", {"headers": "true"}, "'text_headers'"),
        ("folder", {"patient": "("}, "regular expression"),
        ("covid", {"images": "x"}, "none of its own"),
    ],
)
def test_wrong_names_and_options(
    tmp_path: Path, reports: Path, name: str, options: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        convert(name, reports, tmp_path / "m.jsonl", **options)
    assert not (tmp_path / "m.jsonl").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        convert("nih", tmp_path / "nowhere", tmp_path / "m.jsonl")


def test_no_study_left_says_why(tmp_path: Path, tree: Callable[..., Path]) -> None:
    root = tree({"orphan.txt": "FINDINGS: Lost."})
    with pytest.raises(DataError, match="text_without_image: 1") as caught:
        convert("folder", root, tmp_path / "m.jsonl")
    assert caught.value.kind == "no_study"


def test_options_are_listed_with_their_defaults() -> None:
    assert adapter_options("openi") == {"images": "", "keep_marks": False}
    assert adapter_options("padchest") == {}


@pytest.mark.parametrize("name", sorted(NAMES - {"folder"}))
def test_an_empty_folder_is_refused_by_every_adapter(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        convert(name, tmp_path / "empty", tmp_path / "m.jsonl")
    assert caught.value.remedy
