"""Manifests round-trip in both formats, and wrong ones are refused by line and reason."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llava_rad.boxes import Box
from llava_rad.data import (
    FindingBox,
    PriorStudy,
    Study,
    StudyImage,
    as_dataset,
    features,
    hash_manifest,
    load_manifest,
    save_manifest,
)
from llava_rad.errors import DataError

FORMATS = ("jsonl", "parquet")


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    """Studies with every field set, and with none but the required ones."""
    full = Study(
        study_id="s1",
        patient_id="p1",
        split="train",
        images=(
            StudyImage(
                str(tmp_path / "x/a.png"), "frontal", "PA", {"lungs": str(tmp_path / "m/a.png")}
            ),
            StudyImage(str(tmp_path / "x/b.png"), "lateral"),
        ),
        indication="Cough",
        technique="PA and lateral",
        comparison="None",
        prior=PriorStudy("s0", (StudyImage(str(tmp_path / "x/0.png")),), "Clear."),
        findings='Sin derrame. "Opacidad" en el lóbulo — 2,5 cm',
        impression="Normal.",
        labels={"Edema": 1.0, "Fracture": None, "Mass": -1.0},
        sex="F",
        age=54.5,
        source="made up",
        language="es",
        extra={"mesh": "normal;Spine/degenerative"},
    )
    return [full, Study("s2", "p2")]


@pytest.mark.parametrize("ending", FORMATS)
def test_round_trip_keeps_every_field(tmp_path: Path, studies: list[Study], ending: str) -> None:
    path = tmp_path / "deep" / f"m.{ending}"
    save_manifest(studies, path)
    assert load_manifest(path) == studies


def test_an_earlier_manifest_with_one_mask_an_image_is_read(tmp_path: Path) -> None:
    images = '[{"path": "a.png", "lung_mask": "m/a.png"}, {"path": "b.png", "lung_mask": ""}]'
    (tmp_path / "m.jsonl").write_text(f'{{"study_id": "s", "patient_id": "p", "images": {images}}}')
    (study,) = load_manifest(tmp_path / "m.jsonl")
    assert [i.masks for i in study.images] == [{"lungs": str(tmp_path / "m/a.png")}, {}]


def test_a_table_of_several_groups_of_rows_is_whole(
    tmp_path: Path, studies: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_rad.data.manifest._PARQUET_ROWS", 2)
    many = [*studies, Study("s3", "p3"), Study("s4", "p4"), Study("s5", "p5")]
    in_lines = save_manifest(many, tmp_path / "m.jsonl")
    assert save_manifest(many, tmp_path / "m.parquet") == in_lines
    assert load_manifest(tmp_path / "m.parquet") == many
    assert hash_manifest(tmp_path / "m.parquet") == in_lines


@pytest.mark.parametrize("ending", FORMATS)
def test_a_moved_folder_keeps_its_images_and_hash(
    tmp_path: Path, studies: list[Study], ending: str
) -> None:
    digest = save_manifest(studies, tmp_path / f"m.{ending}")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(tmp_path / f"m.{ending}", moved)
    assert load_manifest(moved / f"m.{ending}")[0].images[0].path == str(moved / "x/a.png")
    assert hash_manifest(moved / f"m.{ending}") == digest
    other_root = load_manifest(moved / f"m.{ending}", root=tmp_path)
    assert other_root == studies


def test_the_hash_is_the_content_s(tmp_path: Path, studies: list[Study]) -> None:
    jsonl = save_manifest(studies, tmp_path / "m.jsonl")
    assert save_manifest(studies, tmp_path / "m.parquet") == jsonl
    assert hash_manifest(tmp_path / "m.jsonl") == jsonl == hash_manifest(tmp_path / "m.parquet")
    changed = [replace(studies[0], findings="Clear."), studies[1]]
    assert save_manifest(changed, tmp_path / "n.jsonl") != jsonl
    assert save_manifest(studies[::-1], tmp_path / "n.jsonl") != jsonl
    # Defaults left out of a hand-written file do not change it.
    (tmp_path / "short.jsonl").write_text('{"study_id": "s2", "patient_id": "p2"}\n')
    assert hash_manifest(tmp_path / "short.jsonl") == save_manifest(
        studies[1:], tmp_path / "full.jsonl"
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_plain_load_dataset_opens_it(tmp_path: Path, studies: list[Study], ending: str) -> None:
    import datasets

    path = tmp_path / f"m.{ending}"
    # Texts and label names that come late must not break the types inferred from the first rows.
    sparse = [Study(f"s{i}", f"p{i}", labels={"A": 1.0}, extra={"k": "v"}) for i in range(3, 50)]
    save_manifest([*sparse, *studies], path)
    kind = "json" if ending == "jsonl" else ending
    rows = datasets.load_dataset(
        kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert set(rows.column_names) == set(features())
    assert rows[47]["findings"] == studies[0].findings
    assert {"name": "Edema", "value": 1.0} in rows[47]["labels"]


def test_text_columns_keep_their_type_when_the_first_chunk_has_none(tmp_path: Path) -> None:
    """The JSON reader of datasets takes the types from its first 10 MB."""
    import datasets

    long = "word " * 4000
    studies = [
        Study(f"s{i}", f"p{i}", indication=long, labels={"A": 0.0}, extra={"k": "v"})
        for i in range(600)
    ]
    late = Study("late", "late", split="test", findings="Clear.", labels={"B": -1.0})
    path = tmp_path / "m.jsonl"
    save_manifest([*studies, late], path)
    assert path.stat().st_size > 11 << 20
    rows = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows[600]["findings"] == "Clear."


def test_as_dataset_has_the_fixed_schema(studies: list[Study]) -> None:
    table = as_dataset(studies[1:])
    assert table.features == features()
    assert as_dataset(studies)[0]["prior"]["study_id"] == "s0"


def test_hand_written_rows_may_use_objects_nulls_and_defaults(tmp_path: Path) -> None:
    row = {
        "study_id": "a",
        "patient_id": "b",
        "images": [{"path": "x.png"}],
        "labels": {"Edema": 1, "Mass": None},
        "extra": {"k": "v"},
        "findings": None,
        "impression": "",
    }
    path = tmp_path / "m.jsonl"
    path.write_text("﻿" + json.dumps(row) + "\n\n", encoding="utf-8")
    (study,) = load_manifest(path)
    assert study.labels == {"Edema": 1.0, "Mass": None}
    assert study.findings is study.impression is study.prior is study.split is None
    assert study.images == (StudyImage(str(tmp_path / "x.png"), "unknown"),)


GOOD = '{"study_id": "a", "patient_id": "p"}'


@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        ('{"study_id": "b", "patient_id": "q", "finding": "x"}', "unknown_key", "'findings'"),
        (
            '{"study_id": "b", "patient_id": "q", "images": [{"path": "x", "veiw": "PA"}]}',
            "unknown_key",
            "'view'",
        ),
        (
            '{"study_id": "b", "patient_id": "q", "prior": {"study": "x"}}',
            "unknown_key",
            "'study_id'",
        ),
        ('{"patient_id": "q"}', "missing_key", "study_id"),
        ('{"study_id": "b", "patient_id": "q", "split": "dev"}', "bad_split", "validation"),
        ('{"study_id": "b", "patient_id": "q", "images": [{}]}', "no_image_path", "no path"),
        (
            '{"study_id": "b", "patient_id": "q", "images": [{"path": "x", "view": "PA"}]}',
            "bad_view",
            "frontal",
        ),
        ('{"study_id": "b", "patient_id": "q", "sex": "female"}', "bad_sex", "F"),
        ('{"study_id": "b", "patient_id": "q", "age": "54"}', "", "number"),
        ('{"study_id": "b", "patient_id": "q", "age": -1}', "bad_age", "from 0 to 150"),
        ('{"study_id": "b", "patient_id": "q", "age": 1e30}', "bad_age", "from 0 to 150"),
        ('{"study_id": "b", "patient_id": "q", "labels": {"Edema": "yes"}}', "", "Edema"),
        ('{"study_id": "b", "patient_id": "q", "findings": ["x"]}', "", "findings"),
        ('{"study_id": "b", ', "not_json", "JSON"),
        ('["b", "q"]', "not_an_object", "object"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(
    tmp_path: Path, bad: str, kind: str, says: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{GOOD}\n{bad}\n")
    with pytest.raises(DataError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert says in str(caught.value)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"study_id": "s1"}, "duplicate_study", "s1"),
        ({"patient_id": "p1"}, "patient_overlap", "p1 in test and train"),
        ({"images": (StudyImage("/x/same.png"),)}, "image_overlap", "/x/same.png"),
    ],
)
def test_leaks_between_splits_are_refused(
    tmp_path: Path, changes: dict, kind: str, says: str
) -> None:
    first = Study("s1", "p1", split="train", images=(StudyImage("/x/same.png"),))
    second = replace(Study("s2", "p2", split="test"), **changes)
    with pytest.raises(DataError, match=says) as caught:
        save_manifest([first, second], tmp_path / "m.jsonl")
    assert caught.value.kind == kind
    assert not (tmp_path / "m.jsonl").exists()
    # A file that someone else wrote is held to the same.
    rows = [
        {"study_id": s.study_id, "patient_id": s.patient_id, "split": s.split}
        | {"images": [{"path": image.path} for image in s.images]}
        for s in (first, second)
    ]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        load_manifest(tmp_path / "n.jsonl", split="train")
    assert caught.value.kind == kind


def test_split_selects_and_a_missing_split_says_which_are_there(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    save_manifest([Study("a", "p", split="train"), Study("b", "q", split="test")], path)
    assert [study.study_id for study in load_manifest(path, split="test")] == ["b"]
    with pytest.raises(DataError, match="test, train"):
        load_manifest(path, split="validation")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("m.jsonl", "\n", "empty_manifest"),
        ("m.parquet", "not parquet", "bad_file"),
        ("m.csv", "a,b", "unknown_format"),
        ("m.jsonl", None, "no_manifest"),
        ("m.jsonl", b"\xff\xfe{}", "not_utf8"),
    ],
)
def test_a_file_that_is_no_manifest(
    tmp_path: Path, name: str, content: str | bytes | None, kind: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load_manifest(path)
    assert caught.value.kind == kind


def test_a_failed_save_leaves_the_old_manifest(
    tmp_path: Path, studies: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.jsonl"
    save_manifest(studies, path)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="disk full"):
        save_manifest(studies[:1], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "NULL", "N/A", "NA", "<NA>", "#N/A", "-", "."]
)
@pytest.mark.parametrize("ending", FORMATS)
def test_words_for_missing_are_missing(tmp_path: Path, ending: str, word: str) -> None:
    row = {"study_id": "a", "patient_id": "p", "findings": word, "indication": word, "age": None}
    path = tmp_path / f"m.{ending}"
    if ending == "jsonl":
        path.write_text(json.dumps({**row, "labels": {"Edema": word}, "age": float("nan")}))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([{**row, "age": float("nan")}]), path)
    (study,) = load_manifest(path)
    assert study.findings is study.indication is study.age is None
    assert study.labels in ({"Edema": None}, {})
    path = tmp_path / "n.jsonl"
    path.write_text(json.dumps({"study_id": "a", "patient_id": word}))
    with pytest.raises(DataError, match=r"n\.jsonl:1: 'patient_id' is missing"):
        load_manifest(path)


def test_real_words_stay(tmp_path: Path) -> None:
    row = {
        "study_id": "a",
        "patient_id": "p",
        "comparison": "None",
        "findings": "None of the lines.",
    }
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (study,) = load_manifest(tmp_path / "m.jsonl")
    assert (study.comparison, study.findings) == ("None", "None of the lines.")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('"images": [{"path": 5}]', "path is 5"),
        ('"images": [{"path": ["a"]}]', "path is"),
        ('"images": [{"path": "x", "masks": {"lungs": 5}}]', "the mask of lungs is 5"),
        ('"images": [{"path": "a\\u0000b"}]', "path is"),
        ('"images": {"path": "x"}', "images is"),
        ('"images": [null]', "an image is None"),
        ('"prior": 5', "a prior is 5"),
        ('"prior": {"study_id": 5}', "prior's study_id is 5"),
        ('"labels": {"Edema": 1e999}', "too large"),
        ('"labels": {"Edema": Infinity}', "Infinity is no number"),
        ('"age": ' + "9" * 400, "age is"),
        ('"age": ' + "9" * 5000, "too many digits"),
        ('"extra": {"a": 5}', "extra 'a' is 5"),
        ('"language": 5', "language is 5"),
        ('"findings": "\\ud800"', "half a character"),
        ('"findings": "x", "findings": "y"', "given twice"),
        ('"extra": ' + '{"a":' * 50_000, "nested too deep"),
    ],
)
def test_values_of_the_wrong_kind_are_named_by_file_and_line(
    tmp_path: Path, more: str, says: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{GOOD}\n{{"study_id": "b", "patient_id": "q", {more}}}\n')
    with pytest.raises(DataError, match=says) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("ending", FORMATS)
def test_boxes_come_back_and_do_not_change_manifests_without(tmp_path: Path, ending: str) -> None:
    boxes = (
        FindingBox("Nodule", Box(0.1, 0.2, 0.3, 0.4), "A nodule.", "R1"),
        FindingBox("Mass", Box(0.0, 0.0, 1.0, 1.0)),
    )
    bare = [Study("s1", "p1", images=(StudyImage("a.png"),)), Study("s2", "p2")]
    path, plain = tmp_path / f"m.{ending}", tmp_path / f"plain.{ending}"
    studies = [replace(bare[0], images=(StudyImage("a.png", boxes=boxes),)), bare[1]]
    digest = save_manifest(studies, path, root=Path())
    assert load_manifest(path, root="") == studies
    assert hash_manifest(path) == digest
    # The hash of the same manifest before there were boxes.
    assert save_manifest(bare, plain, root=Path()) == (
        "98a8cdf21a2f92d13db7508b66a3388271c033a556fe6f046c8d57acd88f797b"
    )


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ('{"finding": "N", "x_min": 12, "y_min": 0, "x_max": 40, "y_max": 1}', "divide pixels"),
        ('{"finding": "N", "x_min": 0, "y_min": 0, "x_max": 1}', "y_max of a box is None"),
        ('{"finding": "N", "x_min": NaN, "y_min": 0, "x_max": 1, "y_max": 1}', "x_min .* None"),
        ('{"x_min": 0, "y_min": 0, "x_max": 1, "y_max": 1}', "finding of a box is ''"),
        ('{"finding": "N", "xmin": 0}', "unknown key 'xmin'. Did you mean 'x_min'"),
        ('"N"', "a box is 'N'"),
    ],
)
def test_a_wrong_box_is_refused_by_line(tmp_path: Path, box: str, said: str) -> None:
    images = f'[{{"path": "a.png", "boxes": [{box}]}}]'
    line = f'{{"study_id": "s", "patient_id": "p", "images": {images}}}\n'
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(DataError, match=said) as error:
        load_manifest(tmp_path / "m.jsonl")
    assert str(error.value.where).endswith("m.jsonl:1")
