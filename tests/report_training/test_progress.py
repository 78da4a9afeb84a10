"""Progress of a run."""

from types import SimpleNamespace

import pytest
from helpers.one_process import OneProcess

from llava_rad.model.lora import LoraSettings
from llava_rad.report_training import progress
from llava_rad.report_training.config import STAGES
from llava_rad.report_training.progress import Meter, draw_curve, progress_line
from llava_rad.runs.log import RunLog


def test_means_count_each_token_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("llava_rad.report_training.progress.time.perf_counter", lambda: clock[0])
    meter = Meter(steps=10, step=0)
    clock[0] += 2
    meter.add(targets=30, studies=4, tokens=90, slots=100)
    with meter.paused():
        clock[0] += 50
    clock[0] += 2
    meter.add(targets=10, studies=4, tokens=90, slots=100)
    meter.add_losses([1.0, 2.0])
    found = meter.figures(2)
    assert found["loss"] == pytest.approx((30 * 1.0 + 10 * 2.0) / 40)
    assert found["padding"] == pytest.approx(0.1)
    assert found["studies_per_second"] == pytest.approx(8 / 4)
    assert found["tokens_per_second"] == pytest.approx(180 / 4)
    assert found["seconds_left"] == pytest.approx(8 * 2)
    assert "0:00:16 left" in progress_line("align", 2, 10, {"lr": 1e-3, **found})


@pytest.mark.parametrize(
    ("lora", "trained"), [(LoraSettings(), "adapter and the LLM's LoRA"), (None, "adapter and LLM")]
)
def test_the_curve_says_what_is_trained_and_where_validation_was_lowest(
    tmp_path, monkeypatch, lora, trained
):
    drawn = {}
    monkeypatch.setattr(
        progress, "draw_panels", lambda path, panels, title: drawn.update({title: panels})
    )
    log = RunLog(tmp_path, "align", 0, STAGES, OneProcess())
    for step in (1, 2, 3):
        log.write(step, loss=1.0 / step)
        log.write(step, validation_loss=[0.9, 0.7, 0.8][step - 1])
    config = SimpleNamespace(name="mine", lora=lora, stages=STAGES[:2])
    assert draw_curve(tmp_path, config) == tmp_path / "loss.png"
    align, finetune = drawn["Training of mine"]
    assert align.title == "align: adapter trained" and align.xlabel == "optimiser step"
    assert finetune.title == f"finetune: {trained} trained"
    assert align.ylabel == "cross-entropy per report token, nats"
    assert list(align.left) == ["training", "validation, lowest 0.700 at 2"]
    assert align.left["training"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert not finetune.lines
