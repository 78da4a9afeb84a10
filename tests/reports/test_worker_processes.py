"""Several processes write what one writes, and end as one."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_models import save_tiny_model
from helpers.waiting import PATIENCE, wait_for
from PIL import Image

from llava_rad.data import Study, StudyImage
from llava_rad.errors import ModelError, WeightsError
from llava_rad.model import LoraSettings, load
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.worker_processes import ReportsHere, ReportsInProcesses

SHORT = GenerationSettings(max_new_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and a folder of pictures, one of which is damaged."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny_model(folder, lora=LoraSettings(r=2))
    (folder / "images").mkdir()
    for i in range(6):
        picture = Image.linear_gradient("L").resize((60 + i, 64)).rotate(50 * i)
        picture.save(folder / "images" / f"{i}.png")
    (folder / "images" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return folder


def studies_of(folder):
    files = sorted((folder / "images").iterdir())
    return [Study(f.stem, f.stem, images=(StudyImage(str(f), "frontal"),)) for f in files]


def plain(results):
    return [(getattr(r, "findings", None) or str(r.error), r.study_id, s) for r, s in results]


@pytest.mark.slow
def test_two_processes_give_what_one_gives_in_the_same_order(folder):
    studies = studies_of(folder)
    start = functools.partial(load, str(folder / "model"), dtype="float32")
    here = ReportsHere(start(device="cpu"), SHORT, 2)
    alone = list(here.reports(studies))
    with ReportsInProcesses(start, ["cpu", "cpu"], SHORT, 2) as processes:
        together = list(processes.reports(studies))
        children = [process.pid for process in processes._processes.values()]
    assert plain(together) == plain(alone)
    assert [result for result, _ in together if not hasattr(result, "error")] == [
        result for result, _ in alone if not hasattr(result, "error")
    ]
    assert len(together) == 6 and "3" in together[3][0].study_id
    assert processes.facts == here.facts
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_where_nothing_is_left_to_do_the_processes_are_told_and_nobody_waits():
    here, there = multiprocessing.Pipe()
    processes = ReportsInProcesses.__new__(ReportsInProcesses)
    processes._processes, processes._batch_size = {here: None}, 2
    assert list(processes.reports([])) == []
    assert there.recv() is None


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said_by_the_one_that_started_it(folder):
    start = functools.partial(load, str(folder / "nothing"))
    with pytest.raises(WeightsError, match="no such model folder"):
        ReportsInProcesses(start, ["cpu"], SHORT, 1)
    start = functools.partial(load, str(folder / "model"))
    with ReportsInProcesses(start, ["cpu"], SHORT, 1) as processes:
        [process] = processes._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="process 1 of 1 has ended by signal 9") as caught:
            list(processes.reports(studies_of(folder)))
    assert caught.value.kind == "process_ended"


def children_of(pid):
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def is_alive(pid):
    """Whether a process runs; a zombie that nobody has asked for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.check
def test_a_command_of_two_processes_is_stopped_and_resumed(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(60):
        Image.linear_gradient("L").resize((60 + i, 64)).rotate(6 * i).save(images / f"{i:02}.png")
    # One study a batch, so that a resumed run has the batches of one that was not stopped.
    command = [sys.executable, "-m", "llava_rad", "report", str(images)]
    command += ["--model", str(folder / "model"), "--max-new-tokens", "40", "--batch-size", "1"]
    once, several = tmp_path / "once.jsonl", tmp_path / "several.jsonl"
    assert subprocess.run([*command, "-o", once]).returncode == 0

    command += ["-o", str(several), "--processes", "2"]
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = several.read_bytes().count(b"\n") if several.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: several.exists() and several.read_bytes().count(b"\n") > before)  # noqa: B023
        children = children_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, said
        assert "Traceback" not in said
        wait_for(lambda: not any(map(is_alive, children)))  # noqa: B023
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "in several.jsonl already" in done.stderr.replace(
        f"{tmp_path}/", ""
    )
    assert several.read_bytes() == once.read_bytes()


@pytest.mark.check
def test_shards_of_several_processes_are_merged_to_the_same_file(folder):
    command = [sys.executable, "-m", "llava_rad", "report", "images", "--model", "model"]
    command += ["--max-new-tokens", "6", "--batch-size", "1"]

    def run(*further, code):
        done = subprocess.run([*command, *further], cwd=folder, capture_output=True, text=True)
        assert done.returncode == code, done.stderr

    run("-o", "all.jsonl", code=1)  # one picture is damaged
    run("-o", "parts.jsonl", "--shard", "1/2", "--processes", "2", code=0)
    run("-o", "parts.jsonl", "--shard", "2/2", "--processes", "2", code=1)
    merge = [sys.executable, "-m", "llava_rad", "merge", "parts.jsonl"]
    assert subprocess.run(merge, cwd=folder).returncode == 1
    assert (folder / "parts.jsonl").read_bytes() == (folder / "all.jsonl").read_bytes()
