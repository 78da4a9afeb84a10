import argparse
import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "pretraining.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("speed_pretraining", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_step_is_timed(program, tmp_path, precision):
    program._write_images(tmp_path / "images", 4)
    job = {
        "folder": str(tmp_path),
        "global_size": 28,
        "local_size": 14,
        "precision": precision,
        "batch": 2,
        "steps": 1,
        "device": "cpu",
        "clock": "process_time",
        "prototypes": 16,
        "local_crops": 2,
        "drop_path": 0.1,
    }
    row = program.measure(job)
    assert row["ready_rate"] > 0
    assert row["whole_rate"] > 0
    assert 0.1 < row["peak_gib"] < 64


def _row(program, rate, peak):
    return {
        "program": program,
        "sizes": "98/42",
        "precision": "bf16",
        "ready_rate": rate,
        "whole_rate": rate / 2,
        "peak_gib": peak,
        "threads": 2,
        "torch": "2",
    }


ARGUMENTS = argparse.Namespace(batch=4, steps=3, device="cpu", cpu_time=False)


def test_table_compares_with_the_peer_of_the_same_setting(program):
    table = program.report([_row("llava-rad", 6.0, 1.0), _row("lightly", 3.0, 2.0)], ARGUMENTS)
    ours, theirs = table.splitlines()[-2:]
    assert ours == "| 98/42 | llava-rad | bf16 | 6.00 | 3.00 | 2.00 / 2.00 | 1.00 | 0.50 |"
    assert theirs == "| 98/42 | lightly | bf16 | 3.00 | 1.50 |  | 2.00 |  |"
    assert "absent" not in table


def test_absent_peer_is_named(program, tmp_path):
    assert not program._has_lightly(tmp_path / "no" / "python")
    assert "lightly: absent" in program.report([_row("llava-rad", 6.0, 1.0)], ARGUMENTS)
