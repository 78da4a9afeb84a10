"""ReXrank's JSON in and out: from its test file to the file that is submitted, and its scores."""

import json

import pytest

from llava_rad.data import save_manifest
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.rexrank import read
from llava_rad.errors import DataError
from llava_rad.evaluation import read_predictions
from llava_rad.evaluation.rexrank import is_submission


@pytest.fixture
def test_file(studies, tmp_path):
    """Three studies in the leaderboard's form, on the pictures of the studies."""
    rows = {
        f"CXR{i}_IM-1": {
            "key_image_path": f"{i}.png",
            "image_path": [f"{i}.png"],
            "section_findings": None if i == 1 else f"Findings of {i}.",
            "section_impression": "Normal.",
            "split": "test",
            "frontal_lateral": ["Frontal"],
            "context": "Indication: Cough. Comparison: None.",
        }
        for i in range(3)
    }
    path = tmp_path / "ReXRank_test.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_file_to_submit_is_the_test_file_with_predictions(
    test_file, seeing_model, tmp_path, run_program
):
    manifest = tmp_path / "rexrank.jsonl"
    save_manifest(list(read(tmp_path, ConversionLog(), file=test_file.name)), manifest)
    done = run_program(
        *("run", "--model", seeing_model, "--manifest", manifest, "-o", tmp_path / "out"),
        *("--preset", "rexrank", "--max-new-tokens", 4),
    )
    assert done.exit_code == 0, done.stderr
    assert "rexrank.json to submit" in done.stderr
    given = json.loads(test_file.read_text())
    submitted = json.loads((tmp_path / "out/rexrank.json").read_text())
    assert list(submitted) == list(given)
    for name, row in given.items():
        written = submitted[name]
        assert {**row, "model_prediction": written["model_prediction"]} == written
    predictions = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    references = [row["reference"] for row in predictions]
    assert references[1] == "Findings: None Impression: Normal."
    assert references[2] == "Findings: Findings of 2. Impression: Normal."

    # The submitted file scores as the run did.
    again = run_program(
        *("findings", tmp_path / "out/rexrank.json", "-o", tmp_path / "again"),
        *("--preset", "rexrank"),
    )
    assert again.exit_code == 0, again.stderr
    tables = [
        json.loads((tmp_path / name / "metrics.json").read_text())["preset"]["table"]
        for name in ("out", "again")
    ]
    assert tables[0] == tables[1] and tables[0][0]["number"] is not None


def test_a_file_of_predictions_is_read(tmp_path):
    path = tmp_path / "prediction.json"
    row = {"findings": "Clear.", "impression": float("nan"), "subject_id": 7}
    path.write_text(json.dumps({"s1": {**row, "model_prediction": "Findings:Clear."}}))
    (read_row,) = read_predictions(path).rows
    assert read_row.reference == "Findings: Clear. Impression: None"
    assert (read_row.prediction, read_row.patient) == ("Findings:Clear.", "7")
    assert read_row.section == "findings_and_impression"

    path.write_text(json.dumps({"s1": row}))
    with pytest.raises(DataError, match="model_prediction"):
        read_predictions(path)


SECTIONS = {"section_findings": "Clear.", "section_impression": "Normal."}


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"section_findings": float("nan")}, "Findings: None Impression: Normal."),
        ({"section_impression": None}, "Findings: Clear. Impression: None"),
        ({"section_findings": ""}, "Findings:  Impression: Normal."),
        ({"section_findings": "N/A"}, "Findings: N/A Impression: Normal."),
        ({"section_findings": "/"}, "Findings: / Impression: Normal."),
    ],
)
def test_references_are_the_leaderboards_to_the_letter(tmp_path, row, reference):
    path = tmp_path / "prediction.json"
    path.write_text(json.dumps({"s1": {**SECTIONS, **row, "model_prediction": "x"}}))
    assert read_predictions(path).rows[0].reference == reference


@pytest.mark.parametrize(
    ("study", "row", "patient"),
    [
        ("patient64545_study1", {}, "patient64545"),
        ("50051329", {"subject_id": 10046166.0}, "10046166.0"),
        ("pABC_aDEF_st1", {"ImagePath": []}, "pABC"),
        ("CXR3030_IM-1405", {}, None),
    ],
)
def test_patients_are_those_of_the_adapter(tmp_path, study, row, patient):
    path = tmp_path / "prediction.json"
    path.write_text(json.dumps({study: {**SECTIONS, **row, "model_prediction": "x"}}))
    assert read_predictions(path).rows[0].patient == patient


ROW = json.dumps({**SECTIONS, "model_prediction": "x"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'{{"s1": {ROW}, "s1": {ROW}}}', "the key 's1' is given twice"),
        (f'{{"s1": {ROW}, "s2": 3}}', "study 's2' is 3, not an object"),
        (ROW.replace('"Clear."', '["Clear."]').join(('{"s1": ', "}")), "study s1.*one text.*list"),
        ('{"s1": {"report": "Clear.", "model_prediction": "x"}}', "study s1: there are no true"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, says):
    path = tmp_path / "prediction.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_predictions(path)


def test_only_its_own_file_is_overwritten(tmp_path):
    path = tmp_path / "rexrank.json"
    for text, own in (
        (f'{{"s1": {ROW}}}', True),
        (f'{{"s1": {ROW}, "s2": 3}}', False),
        ("{}", False),
    ):
        path.write_text(text)
        assert is_submission(path) is own


def test_json_lines_under_the_name_json_are_still_read(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"id": "1", "prediction": "a", "reference": "b"}))
    assert read_predictions(path).rows[0].id == "1"
