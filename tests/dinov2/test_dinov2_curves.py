import numpy as np
import pytest
from helpers.one_process import OneProcess
from matplotlib import image as pictures

from llava_rad.dinov2.curves import draw_curves
from llava_rad.runs.log import RunLog


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("probe", [{}, {"probe sex AUROC": 0.7, "probe age error": 9.0}])
def test_curves_are_drawn_of_what_there_is(tmp_path, probe):
    log = RunLog(tmp_path, "pretrain", 0, ["pretrain"], OneProcess())
    empty = pictures.imread(draw_curves(tmp_path))
    for step in range(1, 4):
        log.write(step, epoch=step / 3, total=1.0 / step, dino=0.5, **probe)
        log.write(
            step, epoch=step / 3, target_entropy=0.9, feature_spread=0.5, effective_rank=step + 1.0
        )
    drawn = pictures.imread(draw_curves(tmp_path))
    assert drawn.shape[1] > empty.shape[1] if probe else drawn.shape == empty.shape
    inside = drawn[60:-60:3, ::3, :3].reshape(-1, 3)
    assert len(np.unique(inside.round(1), axis=0)) > 5
