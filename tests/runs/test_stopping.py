"""Signals wait for the border between two steps; nobody outlives the launcher."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from helpers.one_process import OneProcess
from helpers.program_runs import environment, run_program

from llava_rad.errors import DataError
from llava_rad.runs import stopping
from llava_rad.runs.stopping import Interrupted, StepBorder, handling, stop_at_once


def test_outside_the_loop_a_signal_ends_at_once():
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(Interrupted) as caught, handling(stop_at_once):
            os.kill(os.getpid(), number)
            time.sleep(10)
        assert caught.value.number == number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_within_the_loop_it_waits_for_the_border(capfd):
    border, done = StepBorder(OneProcess()), []
    with border:
        for step in range(9):
            border.cross(lambda: None)
            if border.signal:
                break
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)  # of the same request
            done.append(step)
        assert border.signal == signal.SIGTERM
        border._own = 0
    assert done == [0, 1, 2, 3]
    assert "SIGTERM: finishing the step" in capfd.readouterr().err


def test_a_second_request_ends_at_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    with pytest.raises(Interrupted, match="stopped by SIGINT"), StepBorder(OneProcess()):
        os.kill(os.getpid(), signal.SIGTERM)
        clock[0] += 60
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


def test_a_signal_in_the_last_step_is_not_forgotten():
    with pytest.raises(Interrupted), StepBorder(OneProcess()):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_error_at_the_border_is_raised_there():
    def broken():
        raise DataError("no image")

    with StepBorder(OneProcess()) as border, pytest.raises(DataError):
        border.cross(broken)


TOGETHER = """
import os, signal, sys
from accelerate import Accelerator
from llava_rad.errors import DataError, TrainingError
from llava_rad.runs.checks import UnreadSteps
from llava_rad.runs.stopping import Interrupted, StepBorder
from llava_rad.runs.together import in_all, on_main, owned_folder
import torch
from pathlib import Path

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index


def say(*what):
    print(f"[{rank}]", *what, flush=True)


def fail(where):
    if rank == where:
        raise DataError(f"broken in {where}")
    return rank


assert on_main(accelerator, lambda: "found") == "found"
assert in_all(accelerator, lambda: fail(7)) == rank
for where, together in ((0, on_main), (1, in_all)):
    try:
        together(accelerator, lambda: fail(where))
    except DataError as error:
        say(error.what, "told elsewhere" if error.told else "told here")

border = StepBorder(accelerator)
with border:
    for step in range(5):
        if step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        border.cross(lambda: step + rank, lambda found: [found, 1])
        if border.signal:
            break
    say("stopped at", step, border.signal, border.counts)
    border._own = 0
with border:
    try:
        border.cross(lambda: fail(1))
    except DataError as error:
        say(error.what, "told elsewhere" if error.told else "told here")

unread = UnreadSteps(accelerator, "Stop")
for step in (1, 2):
    unread.add(step, {"loss": torch.tensor(float(step * rank)), "gradient": torch.tensor(1.0)})
say(unread.read(), unread.read())
own = torch.tensor(float("nan") if rank else 1.0)
for step in (3, 4):
    unread.add(step, {"loss": own, "gradient": torch.tensor(1.0)},
               [torch.tensor(0.0), own], [[f"a{rank}"], [f"b{rank}"]])
try:
    unread.read()
except TrainingError as error:
    say(error, "told elsewhere" if error.told else "told here")

folder = Path(sys.argv[1])
with owned_folder(folder, accelerator):
    accelerator.wait_for_everyone()
    say("owns", folder.is_dir())
    accelerator.wait_for_everyone()
"""


def test_two_processes_stop_together(tmp_path):
    """Errors, signals and broken numbers of one reach the other, and are told by one."""
    program = tmp_path / "program.py"
    program.write_text(TOGETHER)
    succeeded, said = run_program(program, [str(tmp_path / "own")], tmp_path / "log", processes=2)
    assert succeeded, said
    lines = set(said.splitlines())
    assert {
        "[0] broken in 0 told here",
        "[1] broken in 0 told elsewhere",
        "[0] broken in 1 told elsewhere",
        "[1] broken in 1 told here",
        "[0] stopped at 2 15 [5, 2]",
        "[1] stopped at 2 15 [5, 2]",
        *(
            f"[{rank}] [{{'loss': 0.5, 'gradient': 1.0}}, {{'loss': 1.0, 'gradient': 1.0}}] []"
            for rank in (0, 1)
        ),
        "[0] step 3, studies b1: the loss is nan. Stop. told here",
        "[1] step 3, studies b1: the loss is nan. Stop. told elsewhere",
        "[0] owns True",
        "[1] owns True",
    } <= lines
    assert not list((tmp_path / "own").iterdir())


LAUNCHED = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]],
                         env={**os.environ, "TORCHELASTIC_RUN_ID": "none"})
print(child.pid, flush=True)
time.sleep(60)
"""
WORKER = """
import time
from llava_rad.runs.stopping import Interrupted, handling, stop_at_once, stop_with_launcher
stop_with_launcher()
print("ready", flush=True)
try:
    with handling(stop_at_once):
        time.sleep(60)
except Interrupted as stopped:
    print(stopped, flush=True)
"""


def test_a_worker_ends_when_its_launcher_is_killed():
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LAUNCHED), WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    said = [launcher.stdout.readline(), launcher.stdout.readline()]
    assert "ready\n" in said
    launcher.kill()
    launcher.wait()
    assert launcher.stdout.read().endswith("stopped by SIGTERM\n")  # ends with the worker
    launcher.stdout.close()


def test_workers_of_a_loader_outlive_signals_to_the_group(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        """
import os, signal, time
import torch
from torch.utils.data import DataLoader
from llava_rad.runs.stopping import calm_worker, handling

class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return number

with handling(lambda *_: None):
    loader = DataLoader(Numbers(), batch_size=None, sampler=range(6), num_workers=1,
                        worker_init_fn=calm_worker, multiprocessing_context="fork")
    print([int(n) for n in loader])
"""
    )
    succeeded, said = run_program(program, [], tmp_path / "log")
    assert succeeded, said
    assert said.strip() == "[0, 1, 2, 3, 4, 5]"
