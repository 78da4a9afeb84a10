from dataclasses import replace

import pytest
from helpers.one_process import OneProcess
from helpers.pretraining_runs import tiny_config

from llava_rad.dinov2 import curves
from llava_rad.dinov2.config import HighResolutionConfig
from llava_rad.dinov2.curves import draw_curves, schedule_marks
from llava_rad.runs.log import RunLog


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path, tmp_path / "run")


@pytest.fixture
def panels(monkeypatch):
    """What is drawn, by title."""
    found = {}
    draw = curves.draw_panels

    def remember(path, panels, title):
        found.update({panel.title: panel for panel in panels if panel.lines})
        draw(path, panels, title)

    monkeypatch.setattr(curves, "draw_panels", remember)
    return found


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("probe", [{}, {"probe sex AUROC": 0.7, "probe age error": 9.0}])
def test_curves_are_drawn_of_what_there_is(tmp_path, config, panels, probe):
    log = RunLog(tmp_path, "pretrain", 0, ["pretrain"], OneProcess())
    assert not draw_curves(tmp_path, config).exists()
    for step in range(1, 4):
        signs = {"divergence": 0.3, "entropy": 0.8, "spread": 0.6}
        log.write(step, epoch=step / 3, total=1.0 / step, dino=0.5, **signs, **probe)
        log.write(step, epoch=step / 3, target_entropy=0.9, feature_spread=0.5, effective_rank=2.0)
    assert draw_curves(tmp_path, config).stat().st_size > 1000
    names = ["Losses", "Teacher's assignments", "Teacher's features"]
    assert list(panels) == names + ["Probe, validation patients"] * bool(probe)
    assert panels["Losses"].left["total"] == [(1 / 3, 1.0), (2 / 3, 0.5), (1.0, 1 / 3)]
    # The signs of collapse, from the first step on.
    shown = [panels[name].left for name in names]
    for left, sign in zip(shown, ("divergence", "entropy", "spread"), strict=True):
        assert any(label.startswith(sign) and len(line) == 3 for label, line in left.items())
    assert all(panel.ylabel and panel.xlabel == "epoch" for panel in panels.values())
    if probe:
        told = panels["Probe, validation patients"]
        assert "AUROC" in told.ylabel and "years" in told.right_label
        assert list(told.left) == ["sex"] and list(told.right) == ["age (right)"]


def test_the_phases_of_the_schedule_are_told(config):
    schedule = replace(
        config.schedule,
        epochs=20,
        heads_only_epochs=1,
        warmup_epochs=2,
        freeze_last_layer_epochs=0,
        teacher_temperature=(0.02, 0.04),
        temperature_epochs=5,
    )
    high = HighResolutionConfig(epochs=4, global_size=56, local_size=28, batch_size=1)
    batch = config.optimiser.batch_size * config.optimiser.accumulate
    high = replace(high, batch_size=batch)
    marks = schedule_marks(replace(config, schedule=schedule, high_resolution=high))
    assert [mark.at for mark in marks] == [1, 3, 5, 16]
    for mark, word in zip(marks, ("backbone", "learning rate", "0.04", "56 px"), strict=True):
        assert word in mark.text
