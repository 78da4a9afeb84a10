import json

import numpy as np
import pytest
from matplotlib import image as pictures

from llava_rad.dinov2.run_log import RunLog, draw_curves, read_metrics


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, step / 2, total=float(step))
    resumed = RunLog(tmp_path, 3)
    resumed.write(4, 2.0, total=40.0)
    assert [row["total"] for row in read_metrics(tmp_path)] == [1, 2, 3, 40]


def test_a_run_from_the_start_drops_everything(tmp_path):
    RunLog(tmp_path, 0).write(0, 0.0, total=1.0)
    RunLog(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(1, 0.5, total=1.0)
    with log.path.open("a") as file:
        file.write(json.dumps({"step": 2, "total": 2.0})[:9])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    RunLog(tmp_path, 1).write(2, 1.0, total=2.0)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("probe", [{}, {"probe sex AUROC": 0.7, "probe age error": 9.0}])
def test_curves_are_drawn_of_what_there_is(tmp_path, probe):
    log = RunLog(tmp_path, 0)
    empty = pictures.imread(draw_curves(tmp_path))
    for step in range(1, 4):
        log.write(step, step / 3, total=1.0 / step, dino=0.5, **probe)
        log.write(step, step / 3, target_entropy=0.9, feature_spread=0.5, effective_rank=step + 1.0)
    drawn = pictures.imread(draw_curves(tmp_path))
    assert drawn.shape[1] > empty.shape[1] if probe else drawn.shape == empty.shape
    inside = drawn[60:-60:3, ::3, :3].reshape(-1, 3)
    assert len(np.unique(inside.round(1), axis=0)) > 5
