"""ReXrank's JSON in and out: from its test file to the file that is submitted, and its scores."""

import json

import pytest

from llava_rad.data import save_manifest
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.rexrank import read
from llava_rad.errors import DataError
from llava_rad.evaluation import read_predictions


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


def test_json_lines_under_the_name_json_are_still_read(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"id": "1", "prediction": "a", "reference": "b"}))
    assert read_predictions(path).rows[0].id == "1"
