"""The benchmark for a GPU on a CPU: its rows on tiny shapes, and what it says of those left out."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("speed_gpu", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_rows_are_measured_on_tiny_shapes(tmp_path):
    def measure(part, rows):
        return subprocess.run(
            [
                *(sys.executable, PROGRAM, "--tiny", "--device", "cpu"),
                *("--part", part, "--rows", rows, "--output", tmp_path),
            ],
            input="600\n",
            text=True,
            check=True,
            capture_output=True,
        ).stdout

    measure("report", "cpu, pooled")
    measure("generation", "batch 2")
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "waits" not in row]
    assert [(row["part"], row["row"], row["batch"]) for row in rows] == [
        ("report", "cpu, pooled 2 x 2", 4),
        ("generation", "reports, batch 2", 2),
        ("generation", "transformers, batch 2", 2),
    ]
    for row in rows:
        per_step = 2 * 6 if row["unit"] == "tokens/s" else row["batch"]
        assert row["rate"] == pytest.approx(per_step / row["step_seconds"])
    assert rows[0]["planned_rate"] > 0 and rows[0]["planned_gb"] > 0


def test_a_part_that_is_cut_off_names_its_rows(program, tmp_path, capsys):
    rows = [
        {"part": "report", "row": "a", "waits": True},
        {"part": "report", "row": "b", "waits": True},
        {"part": "report", "row": "a", "left_out": "no memory"},
    ]
    for row in rows:
        program.write_row(tmp_path, row)
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    for command, part in ((sleeps, "report"), (fails, "generation")):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        program.finish_part(process, part, 60 if command is fails else 0, 0, tmp_path)
    left_out = [(r["part"], r["row"], r["left_out"]) for r in program.read_rows(tmp_path)]
    assert left_out == [
        ("report", "a", "no memory"),
        ("report", "b", "it ran out of time"),
        ("generation", "", "its process ended with code 3"),
    ]
    assert "- report, b: it ran out of time" in program.table(program.read_rows(tmp_path))


def test_compiled_rows_come_after_all_others_and_the_time_is_shared(program):
    compiled = [compiled for _, compiled, _ in program.TURNS]
    assert compiled == sorted(compiled)
    assert sum(share for *_, share in program.TURNS) == pytest.approx(1)
    assert {part for part, *_ in program.TURNS} == set(program.MODULES)
