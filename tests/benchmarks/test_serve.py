"""The server's benchmark: its table, its figures, and what counts as lost."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("serve_benchmark", ROOT / "benchmarks" / "serve.py")
serve = importlib.util.module_from_spec(_spec)
sys.modules["serve_benchmark"] = serve
_spec.loader.exec_module(serve)


def test_figures_are_those_of_the_answers():
    found = serve.Measured(2, seconds=30.0, latencies=[float(n) for n in range(1, 21)])
    found.lost.append("503")
    found.processor = 40.0
    found.memory = [(float(t), 100.0 + 0.5 * t) for t in range(31)]  # 30 MB a minute
    row = found.row()
    assert (row["requests"], row["lost"], row["reports_per_minute"]) == (21, 1, 40.0)
    assert row["p50_seconds"] == pytest.approx(10.5) and 19 <= row["p95_seconds"] <= 20
    assert row["memory_mb_per_minute"] == pytest.approx(30.0)
    assert row["processor_seconds_per_report"] == pytest.approx(2.0)
    lines = serve.table([row, row]).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and "1.00 x" in lines[-1]


def test_requests_of_a_server_are_measured_and_errors_are_lost(live_http):
    port, good, bad = live_http
    found = serve.Measured(2)
    serve.measure(found, port, 0, [good, bad], 0.0)
    assert len(found.latencies) == len(found.lost) == 1
    assert found.lost[0].startswith("ValueError: 422") and list(found.texts) == [0]


@pytest.fixture
def live_http():
    from helpers.dicom_files import dicom_bytes
    from helpers.live_server import live_server
    from helpers.tiny_models import build, byte_level_tokenizer

    with live_server([build(byte_level_tokenizer(), name="tiny-model")]) as live:
        yield live.server.port, serve.body_of([dicom_bytes()]), serve.body_of([b"none"])
