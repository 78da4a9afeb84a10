"""--preset on the command line: what it sets, and what wins over it."""

import json

import pytest

ROWS = [
    {"id": "1", "prediction": "No effusion.", "reference": "No pleural effusion."},
    {"id": "2", "prediction": "Large heart.", "reference": "The heart is large."},
]


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def test_a_preset_sets_metrics_section_and_resamples(predictions, tmp_path, run_program):
    done = run_program("findings", predictions, "-o", tmp_path / "out", "--preset", "rexrank")
    assert done.exit_code == 0, done.stderr
    assert "as ReXrank prints it:" in done.stdout and "used instead" not in done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["preset"]["name"] == "rexrank" and metrics["preset"]["overridden"] == {}
    assert metrics["predictions"]["section"] == "findings_and_impression"
    assert list(metrics["metrics"]) == ["bleu_rexrank"]
    assert set(metrics["left_out"]) == {
        *("bertscore", "chexbert", "radgraph_radcliq", "radcliq_v1", "ratescore", "green"),
    }


def test_an_option_beside_it_wins_and_is_said(predictions, tmp_path, run_program):
    done = run_program(
        *("findings", predictions, "-o", tmp_path / "out", "--preset", "llava-rad"),
        *("--metrics", "rouge", "--resamples", 20, "--radgraph-model", "radgraph"),
        *("--section", "impression"),
    )
    assert done.exit_code == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "is used instead of" in line]
    assert [line.split()[1] for line in said] == ["--metrics", "--resamples", "--section"]
    preset = json.loads((tmp_path / "out/metrics.json").read_text())["preset"]
    assert preset["overridden"] == {"metrics": "rouge", "resamples": 20, "section": "impression"}
    page = (tmp_path / "out/report.html").read_text()
    assert "Not the published convention" in page


def test_compare_takes_it(predictions, tmp_path, run_program):
    other = tmp_path / "b.jsonl"
    rows = [{**row, "prediction": row["reference"]} for row in ROWS]
    other.write_text("\n".join(map(json.dumps, rows)))
    done = run_program("compare", predictions, other, "--preset", "rexrank", "--format", "json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["preset"]["title"] == "ReXrank" and found["primary"] == "radgraph_radcliq/f1"
    (values,) = found["files"].values()
    assert list(values) == ["bleu_rexrank/bleu_2"]


def test_compare_says_what_is_amiss_with_its_files(tmp_path, run_program):
    for name in "ab":
        rows = [{**row, "prediction": f"{name}\x07", "section": "findings"} for row in ROWS]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run_program("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--preset", "rexrank")
    assert done.exit_code == 0, done.stderr
    for name in "ab":
        told = f"warning: {tmp_path / name}.jsonl: "
        assert f"{told}control characters in 2 texts were read as spaces" in done.stderr
        says = "the file says that its references are findings, not findings_and_impression"
        assert told + says in done.stderr


def test_a_file_is_compared_once_with_the_first(predictions, run_program):
    once = run_program("compare", predictions, predictions, "--metrics", "rouge")
    assert once.exit_code == 0, once.stderr
    twice = run_program("compare", predictions, predictions, predictions, "--metrics", "rouge")
    assert twice.exit_code == 2 and "it is given twice" in twice.stderr


def test_evaluate_takes_it(seeing_model, manifest, tmp_path, run_program):
    done = run_program(
        *("run", "--model", seeing_model, "--manifest", manifest, "-o", tmp_path / "out"),
        *("--preset", "llava-rad", "--max-new-tokens", 4, "--metrics", "rouge"),
    )
    assert done.exit_code == 0, done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["preset"]["set"]["section"] == "findings"
    names = [row["name"] for row in metrics["preset"]["table"]]
    assert "F1-RadGraph" in names and "ROUGE-L" in names
