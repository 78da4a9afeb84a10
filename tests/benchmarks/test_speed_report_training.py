"""The training benchmark, its three ways at the size of a test."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_models import byte_level_tokenizer, tiny_encoder, tiny_llm

from llava_rad.data import Study, save_manifest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "report_training.py"
STUDIES = 2 * (1 + 2 * 1) + 32  # of all steps, and those held back


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("speed_report_training", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_inputs(folder, studies):
    tokenizer = byte_level_tokenizer()
    tiny_encoder().save_pretrained(folder / "encoder")
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    texts = ["The lungs are clear. " * (1 + number % 3) for number in range(studies)]
    save_manifest(
        [
            Study(f"s{number}", f"p{number}", split="train", images=(), findings=text)
            for number, text in enumerate(texts)
        ],
        folder / "studies.jsonl",
    )


def _run(folder, *options):
    command = [sys.executable, str(PROGRAM), str(folder / "studies.jsonl"), *options]
    for name in ("encoder", "llm"):
        command += [f"--{name}", str(folder / name)]
    command += ["--batch", "2", "--rounds", "2", "--steps", "1", "--warmup", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_ways_train_on_the_same_studies_and_take_turns(tmp_path):
    _write_inputs(tmp_path, STUDIES)
    done = _run(tmp_path, "--rows", "project", "floor", "plain", "--json", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())["found"]
    tokens = {row: sum(values["tokens"]) for row, values in found.items()}
    # The same studies; the floor leaves out what fills no column of its rows.
    assert tokens["project"] == tokens["plain"]
    assert 0 <= tokens["project"] - tokens["floor"] < 2 * 3
    for row, values in found.items():
        assert len(values["rounds"]) == 2
        assert all(spent["seconds"] > 0 for spent in values["rounds"])
        assert values["peak_gb"] > 0.1
        # An untrained LLM of 500 tokens.
        assert row == "floor" or 4 < values["loss"] < 9
    lines = [line for line in done.stdout.splitlines() if line.startswith("| project")]
    assert len(lines) == 1
    assert done.stdout.count("\n") < 10


def test_too_few_studies_are_an_error(tmp_path):
    _write_inputs(tmp_path, STUDIES - 1)
    done = _run(tmp_path, "--rows", "floor")
    assert done.returncode == 1
    assert f"has {STUDIES - 1} findings, {STUDIES} are needed" in done.stderr


def test_ratios_are_to_the_plain_ways_and_to_the_floor(program):
    def found(seconds, tokens, peak):
        rounds = [{"seconds": seconds, "processor_seconds": 2 * seconds}] * 3
        return {"rounds": rounds, "tokens": [tokens] * 4, "peak_gb": peak, "loss": 3.25}

    job = {"batch": 4, "steps": 1, "rounds": 3, "warmup": 1}
    rows = {
        "project": (found(2.0, 400, 1.5), {**job, "dtype": "bf16"}),
        "floor": (found(1.6, 400, 1.0), {**job, "dtype": "bf16"}),
        "plain": (found(4.0, 400, 3.0), {**job, "dtype": "bf16"}),
        "plain, float32": (found(10.0, 400, 4.0), {**job, "dtype": "fp32"}),
    }
    table = program.table(
        {row: values for row, (values, _) in rows.items()},
        {row: job for row, (_, job) in rows.items()},
        "seconds",
    )
    # 4 studies of 100 tokens in 2 s; plain takes twice and five times as long, the floor 0.8 times.
    row = "| project | bf16 | 100 | 2.00 | 2.00 | 5.00 | 1.25 | 1.50 | 50% | 3.250 |"
    assert row in table
