"""The parts that are measured at scale do what they are measured for."""

import importlib.util
import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("scale", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", ["manifest", "hash", "samples", "csv"])
def test_each_part_takes_all_studies(program, part, tmp_path, capsys):
    write, work = program.PARTS[part]
    write(tmp_path, 300)
    result = work(tmp_path)
    if part == "manifest":
        assert len(result) == 300 and {s.split for s in result} == {"train", "validation", "test"}
    elif part == "hash":
        assert len(result) == 64
    elif part == "samples":
        assert "samples without reading" in capsys.readouterr().out
    else:
        assert result.studies == 300 and result.with_findings == 300


def test_the_pairs_are_what_score_reads(program, tmp_path):
    program.write_pairs(tmp_path, 5)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    assert len({row["prediction"] for row in rows}) == len({row["id"] for row in rows}) == 5
