"""The parts that are measured at scale do what they are measured for."""

import importlib.util
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def program():
    sys.path.insert(0, str(PROGRAM.parent))  # what it shares with its neighbours
    spec = importlib.util.spec_from_file_location("scale", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(PROGRAM.parent))
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


@pytest.mark.check
def test_a_pair_takes_little_memory(program, tmp_path):
    """Of all metrics together; what grows with the pairs, whatever is loaded once."""
    peaks = []
    for pairs in (20, 40, 120):  # the first loads what is loaded once
        folder = tmp_path / str(len(peaks))
        folder.mkdir()
        program.write_networks(folder, pairs)
        tracemalloc.start()
        program.score_networks(folder, "--resamples", "20")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        scores = json.loads((folder / "scores" / "metrics.json").read_text())
        assert not scores["left_out"]
        assert {"chexbert", "radgraph", "bertscore"} < set(scores["metrics"])
    assert (peaks[2] - peaks[1]) / 80 < 30_000, peaks
