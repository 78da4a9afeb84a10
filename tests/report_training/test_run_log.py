"""Metrics and progress of a run."""

import json

import pytest
from PIL import Image

from llava_rad.report_training.run_log import Meter, RunLog, draw_curve, progress_line, read_metrics


class Tracker:
    def __init__(self):
        self.rows = []

    def log(self, values, step):
        self.rows.append((step, values))


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    log = RunLog(tmp_path, "align", 0, Tracker())
    for step in range(1, 5):
        log.write(step, loss=float(step))
    with log.path.open("a") as file:
        file.write('{"stage": "align", "ste')  # killed while writing
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4]

    tracker = Tracker()
    log = RunLog(tmp_path, "align", 2, tracker)
    log.write(3, loss=9.0)
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 9.0),
    ]
    assert tracker.rows == [(3, {"align/loss": 9.0})]

    RunLog(tmp_path, "finetune", 0, tracker).write(1, loss=1.0)
    assert [r["stage"] for r in read_metrics(tmp_path)] == ["align"] * 3 + ["finetune"]
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_means_count_each_token_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("llava_rad.report_training.run_log.time.perf_counter", lambda: clock[0])
    meter = Meter(steps=10, step=0)
    clock[0] += 2
    meter.add(loss=1.0, targets=30, studies=4, tokens=90, slots=100)
    with meter.paused():
        clock[0] += 50
    clock[0] += 2
    meter.add(loss=2.0, targets=10, studies=4, tokens=90, slots=100)
    found = meter.figures(2)
    assert found["loss"] == pytest.approx((30 * 1.0 + 10 * 2.0) / 40)
    assert found["padding"] == pytest.approx(0.1)
    assert found["studies_per_second"] == pytest.approx(8 / 4)
    assert found["tokens_per_second"] == pytest.approx(180 / 4)
    assert found["seconds_left"] == pytest.approx(8 * 2)
    assert "0:00:16 left" in progress_line("align", 2, 10, {"lr": 1e-3, **found})


def test_the_curve_is_a_picture(tmp_path):
    log = RunLog(tmp_path, "align", 0, Tracker())
    for step in (1, 2):
        log.write(step, loss=1.0 / step)
    log.write(2, validation_loss=0.7)
    with Image.open(draw_curve(tmp_path)) as picture:
        assert min(picture.size) > 200
