"""eval/run.py on a tiny model: manifest to page, in one or two processes, cut off or not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.waiting import PATIENCE
from markupsafe import escape

from llava_rad.data import save_manifest

PROGRAM = Path(__file__).parents[2] / "eval" / "run.py"
FILES = ["reports.jsonl", "predictions.jsonl", "metrics.json", "per_sample.jsonl", "report.html"]
FILES += ["errors.json", "errors.csv"]
CONTROL_FILES = [
    "image_control.json",
    "image_control.jsonl",
    "control_reports/noise.jsonl",
    "control_reports/other_patient.jsonl",
]


def arguments(model, manifest, out, tokens=12):
    options = ["--model", model, "--manifest", manifest, "--split", "test", "-o", out]
    options += ["--max-new-tokens", tokens, "--batch-size", 3]
    return [*map(str, options), "--metrics", "rouge,bleu_coco,chexpert_rules", "--resamples", "50"]


@pytest.fixture
def run(run_program, seeing_model, manifest):
    def go(out, *more):
        return run_program("run", *arguments(seeing_model, manifest, out), *more)

    return go


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(out, names=FILES):
    return {name: (out / name).read_bytes() for name in names}


def test_reports_scores_and_page(run, run_program, studies, tmp_path):
    out = tmp_path / "out"
    done = run(out)
    assert done.exit_code == 0, done.stderr
    rows = lines(out / "predictions.jsonl")
    judged = [s for s in studies if s.split == "test" and s.findings]
    assert [(r["id"], r["reference"], r["patient_id"]) for r in rows] == [
        (s.study_id, s.findings, s.patient_id) for s in judged
    ]
    reports = {r["study_id"]: r["findings"] for r in lines(out / "reports.jsonl")}
    assert [r["prediction"] for r in rows] == [reports[s.study_id] for s in judged]
    for row, study in zip(rows, judged, strict=True):
        assert (out / row["image"]).resolve() == Path(study.images[0].path).resolve()
        assert row.get("labels", {}) == ({"Edema": 1.0} if study.labels else {})
        assert (row["sex"], row["age"], row["view"]) == (study.sex, study.age, "PA")
    errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert errors["notes"][0] == "not in the file of predictions: source"
    assert "view: PA in all studies" in errors["notes"]
    assert {"F", "M"} < {c["value"] for c in errors["cells"]}

    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    generation = metrics["generation"]
    assert generation["studies"] == 11 and generation["left_out"] == {"no_findings": 1}
    assert generation["precision"] == "float32" and generation["failed"] == []
    assert any("11 kept, 1 left out (no_findings: 1)" in w for w in metrics["warnings"])
    assert metrics["baselines"]["fixed_report"]["chosen_among"] == "training reports"
    assert "11 pairs, findings" in done.stdout
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image") > 0

    # The same numbers as scoring the file by itself.
    training = tmp_path / "training.jsonl"
    texts = [{"id": s.study_id, "reference": s.findings} for s in studies if s.split == "train"]
    training.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    again = run_program(
        "findings", out / "predictions.jsonl", "-o", tmp_path / "again", "--metrics",
        "rouge,bleu_coco,chexpert_rules", "--resamples", 50, "--training-reports", training,
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    scored = json.loads((tmp_path / "again/metrics.json").read_text(encoding="utf-8"))
    assert scored["metrics"] == metrics["metrics"] and scored["baselines"] == metrics["baselines"]
    assert again.stdout == done.stdout
    assert (tmp_path / "again/per_sample.jsonl").read_bytes() == (
        out / "per_sample.jsonl"
    ).read_bytes()


def test_image_control_uses_the_same_reports(run, run_program, seeing_model, manifest, tmp_path):
    done = run(tmp_path / "out", "--image-control")
    assert done.exit_code == 0, done.stderr
    assert "It is not shown that the text depends" in done.stdout.splitlines()[-1]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    verdict = json.loads((tmp_path / "out" / "image_control.json").read_text())["verdict"]
    assert f"<h1>tiny-model on {manifest.name}, test split</h1>" in page
    assert escape(verdict) in page
    # Another run on the same reports keeps the verdict; one of other reports has none.
    assert run(tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == page
    other = json.loads((tmp_path / "out" / "image_control.json").read_text())
    other["generation"]["model_sha256"] = "another"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "image_control.json").write_text(json.dumps(other))
    assert run(tmp_path / "other").exit_code == 0
    assert "? Not tested." in (tmp_path / "other" / "report.html").read_text(encoding="utf-8")

    whole = contents(tmp_path / "out", ["reports.jsonl", *CONTROL_FILES])
    options = [a for a in arguments(seeing_model, manifest, tmp_path / "out") if a != "--split"]
    options.remove("test")
    alone = run_program("image_control", *options)
    assert alone.exit_code == 0, alone.stderr
    assert contents(tmp_path / "out", ["reports.jsonl", *CONTROL_FILES]) == whole
    assert done.stdout.endswith(alone.stdout)


def test_cut_off_in_a_line_it_ends_with_the_same_files(run, tmp_path):
    out = tmp_path / "out"
    assert run(out).exit_code == 0
    whole = contents(out)
    rows = whole["reports.jsonl"].splitlines(keepends=True)
    (out / "reports.jsonl").write_bytes(b"".join(rows[:4]) + rows[4][:20])
    (out / "metrics.json").unlink()
    assert run(out).exit_code == 0
    assert contents(out) == whole


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_scored(run, studies, tmp_path):
    Path(studies[2].images[0].path).write_bytes(b"no picture")
    done = run(tmp_path / "out")
    assert done.exit_code == 1
    assert "2.png" in done.stderr and "1 of 11 studies failed" in done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert metrics["generation"]["failed"] == ["s2"]
    assert any("1 of 11 studies has no report" in w for w in metrics["warnings"])
    assert len(lines(tmp_path / "out/predictions.jsonl")) == 10


def test_nothing_can_be_read(run, studies, manifest, tmp_path):
    save_manifest([replace(s, images=()) for s in studies], manifest)
    done = run(tmp_path / "out")
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: no study has a report; the first")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (["--model", "./nowhere"], 1, "no such model folder"),
        (["--manifest", "nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["--split", "validation"], 1, "Choose one that is there: test, train"),
        (["--split", "tests"], 2, "--split"),
        (["--metrics", "blue"], 2, "bleu_coco"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["-o", "FILE"], 1, "cannot be written to"),
    ],
)
def test_wrong_use_ends_in_one_clear_line(run, tmp_path, change, code, says):
    (tmp_path / "file").write_text("a file")
    done = run(tmp_path / "out", *[str(tmp_path / "file/x") if c == "FILE" else c for c in change])
    assert done.exit_code == code, done.output
    assert says in done.stderr and done.stdout == ""
    if code == 1:
        assert [x.startswith("error: ") for x in done.stderr.splitlines()][-1]
        assert "Traceback" not in done.stderr


def test_reports_of_other_settings_are_not_mixed(run, tmp_path):
    assert run(tmp_path / "out").exit_code == 0
    done = run(tmp_path / "out", "--max-new-tokens", 13)
    assert done.exit_code == 1 and "other settings" in done.stderr


def test_a_manifest_without_splits(run, studies, manifest, tmp_path):
    save_manifest([replace(s, split=None) for s in studies], manifest)
    done = run(tmp_path / "out", "--split", "all")
    assert done.exit_code == 0, done.stderr
    assert "13 pairs" in done.stdout and "chosen among the references" in done.stdout


@pytest.fixture
def one_thread():
    """As many threads as the processes of these tests have: sums in another order may differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(run, seeing_model, manifest, tmp_path, one_thread):
    alone = run(tmp_path / "one", "--image-control")
    assert alone.exit_code == 0, alone.stderr
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(PROGRAM), *arguments(seeing_model, manifest, tmp_path / "two"), "--image-control",
    ]  # fmt: skip
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.stdout  # one table
    names = FILES + CONTROL_FILES
    assert contents(tmp_path / "two", names) == contents(tmp_path / "one", names)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_it_writes_it_ends_with_the_same_files(
    run_program, seeing_model, manifest, tmp_path, one_thread, sent
):
    cut, whole = (
        arguments(seeing_model, manifest, tmp_path / name, tokens=200) for name in ("cut", "whole")
    )
    # On a busy machine the one who watches has to come first, or all is written before it looks.
    process = subprocess.Popen(
        ["nice", "-n", "19", sys.executable, str(PROGRAM), *cut],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=one_thread,
        text=True,
    )
    reports, deadline = tmp_path / "cut/reports.jsonl", time.monotonic() + PATIENCE
    while not (reports.exists() and reports.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    if sent == signal.SIGINT:
        assert errors.splitlines()[-1].startswith("stopped") and "Traceback" not in errors
    assert 3 <= reports.read_bytes().count(b"\n") < 11
    for options in (cut, whole):
        done = run_program("run", *options)
        assert done.exit_code == 0, done.stderr
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_section_that_the_model_was_trained_to_write(
    run_program, seeing_model, studies, tmp_path
):
    """It is what the reports are compared with, or the difference is said."""
    folder = tmp_path / "model"
    shutil.copytree(seeing_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["training"] = {"settings": {"data": {"section": "impression"}}}
    (folder / "config.json").write_text(json.dumps(config))
    manifest = tmp_path / "m.jsonl"
    written = [replace(s, impression=f"In short: {s.findings}") for s in studies]
    save_manifest(written, manifest)

    done = run_program("run", *arguments(folder, manifest, tmp_path / "own"))
    assert done.exit_code == 0 and "was trained to write" not in done.stderr
    rows = lines(tmp_path / "own" / "predictions.jsonl")
    assert {row["section"] for row in rows} == {"impression"}
    assert all(row["reference"].startswith("In short: ") for row in rows)
    metrics = json.loads((tmp_path / "own" / "metrics.json").read_text())
    assert metrics["predictions"]["section"] == "impression"

    out = tmp_path / "other"
    done = run_program("run", *arguments(folder, manifest, out), "--section", "findings")
    said = "the model was trained to write impression, and is compared with findings"
    assert done.exit_code == 0 and said in done.stderr
    facts = json.loads((out / "metrics.json").read_text())["generation"]
    assert (facts["section"], facts["model_section"]) == ("findings", "impression")
    assert run_program("run", "--section", "nonsense").exit_code == 2
