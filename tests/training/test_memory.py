"""Training steps, validations and checkpoints leave nothing behind in memory."""

import gc

import pytest
import torch
from helpers.pretraining_runs import make_start, tiny_config
from helpers.programs import pretraining_program, report_program

from llava_rad.config import save_config
from llava_rad.runs.curves import Pace
from llava_rad.runs.log import RunLog

pytestmark = pytest.mark.slow

# Passes over the studies and the like; a leak of one object a step is many more.
ALLOWED_OBJECTS = 300


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def counted(monkeypatch):
    """Live tensors, their bytes, and live objects at each row of the log, by step."""
    found = {}
    write = RunLog.write

    def count(log, step, **values):
        write(log, step, **values)
        gc.collect()
        objects = gc.get_objects()
        tensors = [o for o in objects if isinstance(o, torch.Tensor)]
        size = sum(t.numel() * t.element_size() for t in tensors)
        found[step] = (len(tensors), size, len(objects))

    monkeypatch.setattr(RunLog, "write", count)
    monkeypatch.setattr(Pace, "due", lambda _: True)  # every picture is drawn
    return found


def assert_flat(counted, last):
    steps = [step for step in counted if step >= 0.3 * last]  # what is made once has been made
    assert len(steps) >= 5 and steps[-1] == last
    tensors, size, objects = zip(*(counted[step] for step in steps), strict=True)
    assert max(tensors) == min(tensors), counted
    assert max(size) < 1.5 * min(size), counted  # batches differ in length
    assert objects[-1] - objects[0] < ALLOWED_OBJECTS, counted


def test_report_training_with_validations_is_flat(parts, settings, tmp_path, counted):
    program = report_program(parts, settings)
    assert (
        program.run(
            tmp_path / "run",
            "data.images=[current_frontal]",
            "data.context=[]",
            "data.dropout={}",
            # 18 studies, one a step
            f"align={{epochs: {2000 / 18}, lr: 1e-4, batch_size: 1, micro_batch: 1}}",
            "data.max_length=160",
            "log_steps=200",
            "validation_steps=200",
            "checkpoint_steps=500",
        )
        == 0
    )
    assert_flat(counted, 2000)


def test_pretraining_is_flat(tmp_path, counted):
    start = make_start(tmp_path)
    program = pretraining_program(start)
    config = tiny_config(
        start,
        tmp_path / "run",
        trackers=[],
        data__cache_size=32,
        crops__local_count=0,
        loss__ibot_weight=0.0,
        optimiser__batch_size=1,
        loss__koleo_weight=0.0,
        head={"prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4, "layers": 2},
        schedule__epoch_steps=200,
        schedule__epochs=5,
        log_steps=100,
        checkpoint_steps=250,
    )
    save_config(config, start / "tiny.yaml")
    assert program.run(tmp_path / "run") == 0
    assert_flat(counted, 1000)


def test_a_picture_of_the_curves_leaves_nothing(tmp_path):
    from llava_rad.runs.curves import Panel, draw_panels

    lines = {"loss": [(1, 2.0), (2, 1.0)]}
    panels = [Panel(title, "step", "loss", lines, {"koleo": [(1, 1.0)]}) for title in "ab"]

    def count():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(2):  # fonts are read once
        draw_panels(tmp_path / "curves.png", panels, "Losses")
    before = count()
    gc.disable()
    try:
        for _ in range(3):
            draw_panels(tmp_path / "curves.png", panels, "Losses")
        left = len(gc.get_objects()) - before
    finally:
        gc.enable()
    assert count() - before < 50
    assert left >= 0
