import csv
import gzip
import json
import random

import pyarrow.parquet
import pytest

from llava_rad.errors import DataError
from llava_rad.evaluation import Columns, read_predictions, read_reports

ROW = {"id": "1", "prediction": "clear", "reference": "clear lungs"}


def write(tmp_path, *rows):
    path = tmp_path / "predictions.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_all_fields(tmp_path):
    row = {
        **ROW,
        "id": 7,
        "image": "images/a.png",
        "labels": {"Edema": 1, "Fracture": None, "Cardiomegaly": -1},
        "patient_id": 12,
        "language": "en",
        "sex": "female",
        "age": "058Y",
        "view": "PA",
        "source": "nih",
        "other": [1],
    }
    found = read_predictions(write(tmp_path, row, "", {**ROW, "prediction": ""}))
    first, second = found.rows
    assert first.id == "7"
    assert first.image == tmp_path / "images/a.png"
    assert first.labels == {"Edema": 1.0, "Cardiomegaly": -1.0}
    assert first.patient == "12"
    assert found.languages == ["en"]
    assert (first.sex, first.age, first.view, first.source) == ("F", 58.0, "PA", "nih")
    assert (second.sex, second.age, second.view, second.source) == (None,) * 4
    assert second.prediction == "" and second.image is None
    assert found.references == ["clear lungs", "clear lungs"]


@pytest.mark.parametrize(
    ("rows", "kind", "says"),
    [
        ([], "empty_file", "no rows"),
        (["", "  "], "empty_file", "no rows"),
        (["{"], "not_json", "jsonl:1:"),
        ([ROW, "nonsense"], "not_json", "jsonl:2:"),
        (["[" * 100_000], "not_json", "jsonl:1:"),
        (["[1]"], "not_an_object", "list"),
        ([{"id": "1", "prediction": "a"}], "missing_field", "'reference'"),
        ([{"id": "1", "reference": "a"}], "missing_field", "'prediction'"),
        ([{"prediction": "a", "reference": "a"}], "missing_field", "'id'"),
        ([{**ROW, "id": ""}], "wrong_type", "'id'"),
        ([{**ROW, "id": True}], "wrong_type", "'id'"),
        ([{**ROW, "reference": ["a", "b"]}], "wrong_type", "a list"),
        ([{**ROW, "prediction": None}], "wrong_type", "nothing"),
        ([{**ROW, "prediction": 3.5}], "wrong_type", "3.5"),
        ([{**ROW, "labels": [1]}], "wrong_type", "labels"),
        ([{**ROW, "labels": {"Edema": 2}}], "wrong_type", "Edema"),
        ([{**ROW, "labels": {"Edema": "yes"}}], "wrong_type", "Edema"),
        ([{**ROW, "image": 3}], "wrong_type", "image"),
        ([{**ROW, "age": [58]}], "wrong_type", "'age'"),
        ([{**ROW, "sex": True}], "wrong_type", "'sex'"),
        ([ROW, ROW, {**ROW, "id": "2"}], "duplicate_id", "1 id comes more than once: 1"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path, rows, kind, says):
    with pytest.raises(DataError) as caught:
        read_predictions(write(tmp_path, *rows))
    assert caught.value.kind == kind
    assert says in str(caught.value)
    assert "predictions.jsonl" in str(caught.value)


TABLE = """study,generated,report,who,Edema,pleural effusion,language
1,"No effusion, clear.",Clear lungs.,p1,1,,en
2,,"Two
lines.",p2,-1,0,en
"""
NAMES = Columns("study", "generated", "report", "who")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".parquet", ".jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = tmp_path / f"predictions{ending}"
    cells = list(csv.reader(TABLE.splitlines(keepends=True)))
    if ending == ".csv":
        path.write_text(TABLE)
    elif ending == ".csv.gz":
        path.write_bytes(gzip.compress(TABLE.encode()))
    elif ending == ".tsv":
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows(cells)
    elif ending == ".parquet":
        values = {name: [row[i] for row in cells[1:]] for i, name in enumerate(cells[0])}
        for label in ("Edema", "pleural effusion"):
            values[label] = [float(cell) if cell else None for cell in values[label]]
        values["study"] = [1, 2]
        pyarrow.parquet.write_table(pyarrow.table(values), path)
    else:
        rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
        for row in rows:
            labels = {name: row.pop(name) for name in ("Edema", "pleural effusion")}
            row["labels"] = {name: float(cell) for name, cell in labels.items() if cell}
        path.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_predictions(path, NAMES).rows
    assert (first.id, first.prediction, first.patient) == ("1", "No effusion, clear.", "p1")
    assert (second.prediction, second.reference) == ("", "Two\nlines.")
    assert first.labels == {"Edema": 1.0}
    assert second.labels == {"Edema": -1.0, "Pleural Effusion": 0.0}
    assert first.language == "en" and first.image is None
    assert read_reports(path, NAMES) == {"1": "Clear lungs.", "2": "Two\nlines."}


def test_a_missing_column_names_the_option_that_maps_it(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(TABLE)
    with pytest.raises(
        DataError, match=r":2: the field 'prediction' .*--prediction NAME"
    ) as caught:
        read_predictions(path)
    assert "Its fields are Edema, generated, language, pleural" in str(caught.value)
    with pytest.raises(DataError, match=r"the field 'id' .*--id NAME"):
        read_predictions(path, Columns(prediction="generated", reference="report"))


def test_labels_of_a_table_are_checked_as_any_others(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("id,prediction,reference,Edema\n1,a,b,maybe\n")
    with pytest.raises(DataError, match="labels: Edema"):
        read_predictions(path)
    path.write_text('id,prediction,reference,labels\n1,a,b,"{""Edema"": 1}"\n')
    assert read_predictions(path).rows[0].labels == {"Edema": 1.0}


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes('{"id": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_predictions(tmp_path / "latin.jsonl")
    (tmp_path / "nul.jsonl").write_bytes(b'{"id": "1", "prediction": "a\x00", "reference": "b"}')
    with pytest.raises(DataError, match="not JSON"):
        read_predictions(tmp_path / "nul.jsonl")


def test_control_characters_become_spaces_and_are_counted(tmp_path):
    row = {**ROW, "prediction": "no\u0000effusion\u0007", "reference": "two\nlines\tkept"}
    found = read_predictions(write(tmp_path, row))
    assert found.rows[0].prediction == "no effusion "
    assert found.rows[0].reference == "two\nlines\tkept"
    assert "1 text were" in found.notes[0]


def test_accents_line_ends_and_broken_surrogates(tmp_path):
    path = tmp_path / "predictions.jsonl"
    text = json.dumps({**ROW, "prediction": "lóbulo"}, ensure_ascii=False) + "\r\n"
    text += json.dumps({**ROW, "id": "2", "prediction": "half \ud83d"}) + "\r\n"
    path.write_bytes("\ufeff".encode() + text.encode())
    first, second = read_predictions(path).predictions
    assert first == "lóbulo"
    second.encode("utf-8")


def test_training_reports_by_id(tmp_path):
    path = write(tmp_path, {"id": "a", "reference": "clear"}, {"id": 2, "reference": "nodule"})
    assert read_reports(path) == {"a": "clear", "2": "nodule"}
    with pytest.raises(DataError, match="more than once"):
        read_reports(write(tmp_path, ROW, ROW))


def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path):
    generator = random.Random(0)
    whole = write(tmp_path, *({**ROW, "id": str(i), "labels": {"Edema": 1}} for i in range(4)))
    content = whole.read_bytes()
    path = tmp_path / "damaged.jsonl"
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(damaged))
            choice = generator.random()
            if choice < 0.4:
                damaged[place] = generator.randrange(256)
            elif choice < 0.7:
                del damaged[place : place + generator.randint(1, 9)]
            else:
                damaged[place:place] = generator.choice(
                    [b"\x00", b"[", b'"', b"1e999", b"NaN", b"\n"]
                )
        path.write_bytes(damaged)
        try:
            read_predictions(path)
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_labels_of_other_capitals_are_the_same_and_said_so(tmp_path):
    rows = [{**ROW, "labels": {"pleural effusion": 1, "EDEMA": None, "Mass": 0}}]
    found = read_predictions(write(tmp_path, *rows))
    assert found.rows[0].labels == {"Pleural Effusion": 1.0, "Mass": 0.0}
    assert found.notes == (
        "labels that differ only in capitals are one: 'pleural effusion' as 'Pleural Effusion'",
    )
    with pytest.raises(DataError, match="same label"):
        read_predictions(write(tmp_path, {**ROW, "labels": {"Edema": 1, "edema": 0}}))


def test_half_characters_are_counted(tmp_path):
    found = read_predictions(write(tmp_path, {**ROW, "prediction": "half \ud83d"}))
    assert found.predictions == ["half ?"]
    assert found.notes == ("half characters in 1 text were read as question marks",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '{"id": "1", "prediction": "a", "reference": "b", "labels": {"Edema": 1e999}}',
            "too large",
        ),
        ('{"id": "1", "prediction": "a", "reference": "b", "labels": {"Edema": NaN}}', "no number"),
        ('{"id": ' + "9" * 5000 + "}", "too many digits"),
        ('{"id": "1", "prediction": "a", "prediction": "b", "reference": "c"}', "given twice"),
        ('{"id": "1", "prediction": "a", "reference": "b", "image": "a\\u0000"}', "a path"),
        ('{"id": "1", "prediction": "a", "reference": "b", "patient_id": ["x"]}', "a list"),
        ('{"a":' * 60_000, "nested too deep"),
    ],
)
def test_harmful_lines_are_refused(tmp_path, line, says):
    with pytest.raises(DataError, match=says):
        read_predictions(write(tmp_path, line))


def test_a_json_list_is_read_as_lines_are(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ROW, {**ROW, "id": 2, "labels": {"edema": 1}}], indent=2))
    first, second = read_predictions(path).rows
    assert (first.reference, second.labels) == (ROW["reference"], {"Edema": 1.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no rows"),
        (json.dumps([ROW, 3]), "'entry 2' should be an object, got 3"),
        (json.dumps([ROW, {"id": 2}]), "entry 2: the field 'prediction' is missing"),
        (json.dumps([ROW, ROW]), "comes more than once"),
        ("[" * 100_000, "nested too deep"),
        (json.dumps([ROW]) + "\n" + json.dumps([ROW]), "not JSON: Extra data"),
    ],
)
def test_a_wrong_json_list_is_refused_with_its_place(tmp_path, text, says):
    path = tmp_path / "predictions.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_predictions(path)


def test_patients_without_a_name_are_none(tmp_path):
    rows = [{**ROW, "id": str(i), "patient_id": word} for i, word in enumerate(["nan", "N/A", "p"])]
    assert [row.patient for row in read_predictions(write(tmp_path, *rows)).rows] == [
        None,
        None,
        "p",
    ]
