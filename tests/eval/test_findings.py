import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

PROGRAM = Path(__file__).parents[2] / "eval" / "findings.py"
METRICS = "bleu_coco,rouge,chexpert_rules"


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("eval_findings", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture
def run(app):
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "model.jsonl"
    references = ["small effusion", "clear lungs", "large nodule", "clear lungs"]
    rows = [
        {"id": str(i), "prediction": "clear lungs", "reference": reference}
        for i, reference in enumerate(references)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_the_program_runs_from_a_checkout():
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "predictions.jsonl" in done.stdout


def test_table_json_lines_and_page(predictions, tmp_path, run):
    done = run(predictions, "-o", tmp_path / "out", "--metrics", METRICS, "--resamples", "50")
    assert done.exit_code == 0, done.stderr
    assert "4 pairs, findings, 1 distinct output " in done.stdout
    assert "best single report" in done.stdout and "abnormal refs" in done.stdout
    assert "micro F1, 14 observations, uncertain positive" in done.stdout
    assert "computing rouge" in done.stderr and "hardly vary" in done.stderr
    assert "Traceback" not in done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["metrics"]) == set(METRICS.split(","))
    lines = (tmp_path / "out/per_sample.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["0", "1", "2", "3"]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "model.jsonl" in page
    assert "Found, missed and invented, by subgroup" in page
    errors = json.loads((tmp_path / "out/errors.json").read_text(encoding="utf-8"))
    assert errors["notes"] == ["not in the file of predictions: sex, age, view, source"]
    assert errors["unit"] == "study" and (tmp_path / "out/errors.csv").stat().st_size > 1000


def test_missing_weights_are_named_or_required(predictions, tmp_path, run):
    options = ["-o", tmp_path / "out", "--metrics", "rouge,chexbert", "--resamples", "10"]
    named = run(predictions, *options)
    assert named.exit_code == 0
    assert "hf download StanfordAIMI/RRG_scorers chexbert.pth" in named.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["metrics"]) == ["rouge", "chexpert_rules"]  # the primary value's too
    assert "hf download" in metrics["left_out"]["chexbert"]

    required = run(predictions, *options, "--require")
    assert required.exit_code == 1
    assert required.stderr.splitlines()[-1].startswith("error: chexbert")
    assert "Traceback" not in required.stderr


def test_nothing_computed_is_an_error(predictions, tmp_path, run):
    done = run(predictions, "-o", tmp_path / "out", "--metrics", "chexbert")
    assert done.exit_code == 1
    assert "hf download" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no rows"),
        ("not json", "jsonl:1:"),
        ('{"id": "1", "prediction": "a"}', "'reference' is missing"),
        ('{"id": "1", "prediction": "a", "reference": ["a", "b"]}', "a list"),
        ('{"id": "1", "prediction": "a", "reference": "a"}\n' * 2, "more than once"),
    ],
)
def test_bad_files_end_in_one_clear_line(tmp_path, content, says, run):
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    done = run(path, "-o", tmp_path / "out", "--metrics", "rouge")
    assert done.exit_code == 1
    assert done.stdout == "" and says in done.stderr and "bad.jsonl" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_one_line_is_enough(tmp_path, run):
    path = tmp_path / "one.jsonl"
    path.write_text('{"id": 1, "prediction": "clear", "reference": "clear"}')
    done = run(path, "-o", tmp_path / "out", "--metrics", "rouge,cider")
    assert done.exit_code == 0, done.stderr
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]["rouge"]["values"]
    assert numbers["rougeL"] == {"value": 1, "low": None, "high": None, "median": None}


def test_wrong_usage(predictions, tmp_path, run):
    assert run(predictions).exit_code == 2
    assert run(predictions, "-o", tmp_path, "--no-such-option").exit_code == 2
    nonsense = run(predictions, "-o", tmp_path / "out", "--section", "nonsense")
    assert nonsense.exit_code == 2 and "nonsense" in nonsense.stderr
    assert not (tmp_path / "out").exists()
    unknown = run(predictions, "-o", tmp_path / "out", "--metrics", "blue")
    assert unknown.exit_code == 2 and "bleu_coco" in unknown.stderr


def test_results_that_cannot_be_written(predictions, tmp_path, run):
    (tmp_path / "out").write_text("a file")
    done = run(predictions, "-o", tmp_path / "out", "--metrics", "rouge", "--resamples", "10")
    assert done.exit_code == 1 and "cannot be written to" in done.stderr


def test_baselines_from_training_reports_and_features(predictions, tmp_path, run):
    training = tmp_path / "training.jsonl"
    rows = [{"id": f"t{i}", "reference": t} for i, t in enumerate(["clear lungs", "effusion"])]
    training.write_text("\n".join(map(json.dumps, rows)))
    ids = ["0", "1", "2", "3", "t0", "t1"]
    features = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    np.savez(tmp_path / "features.npz", ids=ids, features=features)
    options = ["-o", tmp_path / "out", "--metrics", "rouge", "--resamples", "10"]
    given = ["--training-reports", training, "--features", tmp_path / "features.npz"]
    done = run(predictions, *options, *given)
    assert done.exit_code == 0, done.stderr
    assert "chosen among training reports" in done.stdout
    baselines = json.loads((tmp_path / "out/metrics.json").read_text())["baselines"]
    nearest = baselines["nearest_training_report"]["values"]["rouge/rougeL"]
    assert nearest == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)  # "effusion" for "small effusion"

    np.savez(tmp_path / "features.npz", ids=ids[:3], features=features)
    done = run(predictions, *options, *given)
    assert done.exit_code == 1 and "3 ids but features of shape (6, 2)" in done.stderr
