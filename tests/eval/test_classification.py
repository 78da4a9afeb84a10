"""The programs eval/classification.py and eval/attributes.py, run whole on tiny pictures."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.probing_data import write_probing_data
from helpers.tiny_models import tiny_encoder
from typer.testing import CliRunner

from llava_rad.encoders import load_encoder
from llava_rad.probing import extract_features, load_probe, read_examples

ROOT = Path(__file__).parents[2]


def program(name):
    spec = importlib.util.spec_from_file_location(f"eval_{name}", ROOT / "eval" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_probing_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny_encoder().save_pretrained(folder)
    return folder


def run(name, *arguments):
    return CliRunner().invoke(program(name), [str(a) for a in arguments])


@pytest.fixture(scope="module")
def classified(data, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    result = run(
        "classification", "--encoder", encoder, "--manifest", data, "--fractions", "0.2,1",
        "--pooling", "mean", "--seeds", 2, "--cache", folder / "cache",
        "--save", folder / "heads", "-o", folder / "numbers.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return result, folder


def test_table_and_numbers_agree(classified):
    result, folder = classified
    numbers = json.loads((folder / "numbers.json").read_text())
    assert [(r["method"], r["training_patients"], r["fits"]) for r in numbers["results"]] == [
        ("linear (lbfgs)", 5, 2),
        ("k-NN", 5, 2),
        ("linear (lbfgs)", 24, 1),
        ("k-NN", 24, 1),
    ]
    bright = numbers["results"][2]["measures"]["auroc/Bright"]
    assert bright["low"] <= bright["value"] <= bright["high"]
    (line,) = [s for s in result.stdout.splitlines() if "24     1  Bright" in s and "lin" in s]
    assert f"{bright['value']:.3f}" in line
    assert numbers["encoder"]["tokens"] == 16 and numbers["encoder"]["input_size"] == 56


def test_progress_goes_to_stderr_and_names_what_is_not_measured(classified):
    result, _ = classified
    assert "training images of 24 patients" in result.stderr
    assert "not measured, of one value in training or test: Never" in result.stderr
    assert "training images" not in result.stdout


def test_the_label_that_shows_in_the_picture_is_found(data, tmp_path):
    numbers = tmp_path / "n.json"
    result = run(
        "classification", "--encoder", "pixels", "--image-size", 56, "--manifest", data,
        "--labels", "Bright", "-o", numbers,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    linear, knn = json.loads(numbers.read_text())["results"]
    assert linear["measures"]["auroc"]["value"] == 1.0
    assert knn["measures"]["auroc"]["value"] > 0.8


def test_saved_layer_predicts_from_the_encoders_vectors(classified, data, encoder):
    _, folder = classified
    probe = load_probe(folder / "heads" / "linear_probe.safetensors")
    examples = read_examples([data])
    vectors = extract_features(load_encoder(encoder), [e.path for e in examples.test])
    scores = probe.predict(vectors.pooled(probe.facts["pooling"]).double().numpy())
    assert scores.shape == (18, 2) and probe.names == ("Bright", "Doubtful")
    assert probe.facts["encoder"]["fingerprint"] == load_encoder(encoder).fingerprint()


@pytest.mark.slow
def test_fine_tuning_learns_and_keeps_the_encoder(data, encoder, tmp_path):
    numbers = tmp_path / "n.json"
    result = run(
        "classification", "--encoder", encoder, "--manifest", data, "--labels", "Bright",
        "--fine-tune", "--epochs", 12, "--learning-rate", 3e-3, "--seeds", 1,
        "--save", tmp_path / "heads", "-o", numbers,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    tuned = json.loads(numbers.read_text())["results"][-1]
    assert tuned["method"] == "fine-tuned"
    assert tuned["measures"]["auroc"]["value"] > 0.9
    before, after = load_encoder(encoder), load_encoder(tmp_path / "heads" / "encoder")
    assert before.fingerprint() != after.fingerprint()
    # The saved encoder and layer give the predictions that were measured.
    probe = load_probe(tmp_path / "heads" / "tuned_probe.safetensors")
    test = [e for e in read_examples([data]).test if e.study.labels["Bright"] is not None]
    vectors = extract_features(after, [e.path for e in test])
    scores = torch.from_numpy(probe.predict(vectors.cls.double().numpy())[:, 0])
    labels = torch.tensor([e.study.labels["Bright"] for e in test])
    pairs = scores[labels == 1][:, None] > scores[labels == 0]
    assert pairs.double().mean().item() == pytest.approx(
        tuned["measures"]["auroc"]["value"], abs=1e-6
    )


def test_attributes(data, tmp_path):
    numbers = tmp_path / "n.json"
    result = run(
        "attributes", "--encoder", "pixels", "--image-size", 56, "--manifest", data,
        "--columns", "sex,age,age_group,weight", "--save", tmp_path, "-o", numbers,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = {r["column"]: r for r in json.loads(numbers.read_text())["results"]}
    assert found["sex"]["measures"]["auroc"]["value"] > 0.95
    age = found["age"]["measures"]["mae"]
    assert age["value"] < 5 < age["baseline"]
    assert found["age_group"]["classes"] == ["40-44", "60-64"]
    assert found["weight"]["kind"] == "number"
    assert load_probe(tmp_path / "age.safetensors").kind == "number"
    assert "mean absolute error" in result.stdout


def test_attributes_show_how_far_fits_differ(data, tmp_path):
    numbers = tmp_path / "n.json"
    result = run(
        "attributes", "--encoder", "pixels", "--image-size", 56, "--manifest", data,
        "--columns", "age", "--solver", "adamw", "--seeds", 2, "-o", numbers,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    head, _, row = result.stdout.splitlines()[2:5]
    spread = json.loads(numbers.read_text())["results"][0]["measures"]["mae"]["spread"]
    column = head.index(" sd ") - 4
    assert float(row[column : head.index(" sd ") + 4]) == pytest.approx(spread, abs=6e-4)


def test_errors_are_one_line_and_exit_code_1(data, tmp_path):
    for name, arguments in (
        ("classification", ("--encoder", "pixels", "--manifest", tmp_path / "none.jsonl")),
        ("classification", ("--encoder", "nonsense", "--manifest", data)),
        ("attributes", ("--encoder", "pixels", "--manifest", data, "--columns", "height")),
    ):
        result = run(name, *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert run("attributes", "--encoder", "pixels").exit_code == 2


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(data, encoder, tmp_path):
    arguments = [
        "--encoder", str(encoder), "--manifest", str(data), "--solver", "adamw", "--seeds", "3",
    ]  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run("classification", *arguments, "-o", tmp_path / "1.json")
    finally:
        torch.set_num_threads(threads)
    assert alone.exit_code == 0, alone.stderr
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(ROOT / "eval" / "classification.py"), *arguments, "-o", str(tmp_path / "2.json"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.stdout  # one table
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert first == second
