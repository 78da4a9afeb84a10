"""The metric log of a run."""

import json

import pytest
from helpers.one_process import OneProcess

from llava_rad.errors import TrainingError
from llava_rad.runs.log import RunLog, read_metrics

STAGES = ("align", "finetune")


def test_a_resumed_run_drops_what_comes_again(tmp_path):
    log = RunLog(tmp_path, "align", 0, STAGES, OneProcess())
    for step in range(1, 5):
        log.write(step, loss=float(step))
    with log.path.open("a") as file:
        file.write('{"stage": "align", "ste')  # killed while writing
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4]

    process = OneProcess()
    log = RunLog(tmp_path, "align", 2, STAGES, process)
    log.write(3, loss=9.0)
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path)] == [(1, 1), (2, 2), (3, 9)]
    assert process.rows == [(3, {"align/loss": 9.0})]

    RunLog(tmp_path, "finetune", 0, STAGES, process).write(1, loss=1.0)
    assert [r["stage"] for r in read_metrics(tmp_path)] == ["align"] * 3 + ["finetune"]
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_a_row_that_was_kept_is_not_written_twice(tmp_path):
    RunLog(tmp_path, "align", 0, STAGES, OneProcess()).write(4, loss=1.0)
    log = RunLog(tmp_path, "align", 4, STAGES, OneProcess())
    log.write(4, loss=1.0)
    log.write(4, validation_loss=2.0)
    assert [sorted(r.keys() - {"stage", "step", "time"}) for r in read_metrics(tmp_path)] == [
        ["loss"],
        ["validation_loss"],
    ]


def test_a_run_from_the_start_drops_everything(tmp_path):
    RunLog(tmp_path, "align", 0, STAGES, OneProcess()).write(0, loss=1.0)
    RunLog(tmp_path, "align", 0, STAGES, OneProcess())
    assert read_metrics(tmp_path) == []


def test_a_folder_that_has_gone_is_one_message(tmp_path):
    log = RunLog(tmp_path, "align", 0, STAGES, OneProcess())
    log.path.unlink()
    tmp_path.rmdir()
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: the disk refuses .No such file"):
        log.write(1, loss=1.0)


def test_trackers_that_cannot_write_do_not_end_the_run(tmp_path, caplog):
    class Full(OneProcess):
        def log(self, values, step):
            raise OSError(28, "No space left on device")

    log = RunLog(tmp_path, "align", 0, STAGES, Full())
    log.write(1, loss=1.0)
    log.write(2, loss=1.0)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
    assert caplog.text.count("the trackers get no more figures") == 1
