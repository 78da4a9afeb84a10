"""Both training programs under signals, full disks, second runs, damage and changed inputs."""

import os
import shutil
import signal
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.disks import small_disk
from helpers.pretraining_runs import make_start
from helpers.program_runs import run_program, start_program
from helpers.programs import pretraining_program, report_program
from helpers.waiting import PATIENCE
from PIL import Image

from llava_rad.data import Study, StudyImage, save_manifest
from llava_rad.runs import find_checkpoints
from llava_rad.runs.log import RunLog, read_metrics


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums come out the same here and in the processes started from here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["report", "pretrain"])
def program(request, tmp_path_factory):
    if request.param == "report":
        parts = request.getfixturevalue("parts")
        return report_program(parts, request.getfixturevalue("settings"))
    return pretraining_program(make_start(tmp_path_factory.mktemp("pretraining")))


@pytest.fixture(scope="module")
def finished(program, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert program.run(folder) == 0
    return folder


def figures(folder):
    """What was learnt, step by step."""
    kept = ("step", "loss", "validation_loss", "total", "dino", "feature_spread")
    return [{k: row[k] for k in kept if k in row} for row in read_metrics(folder)]


def last_weights(folder):
    return find_checkpoints(folder / "checkpoints")[-1].tensors("weights")


def assert_same_run(folder, finished):
    assert figures(folder) == figures(finished)
    found, expected = last_weights(folder), last_weights(finished)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def copied(finished, folder):
    """The run as it was when it wrote its checkpoint before the last one."""
    shutil.copytree(finished, folder)
    shutil.rmtree(find_checkpoints(folder / "checkpoints")[-1].path)
    return folder


def test_checkpoints_in_the_background_are_the_same(program, finished, tmp_path):
    output = tmp_path / "run"
    assert program.run(output, "async_checkpoints=true") == 0
    assert_same_run(output, finished)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_the_run_is_resumed_exactly(
    program, finished, tmp_path, number, code
):
    output, log = tmp_path / "run", tmp_path / "log"
    arguments = program.arguments(output, "checkpoint_steps=1000")
    (process,) = start_program(program.path, arguments, log)
    deadline = time.monotonic() + PATIENCE
    while not any(row["step"] >= 2 for row in read_metrics(output)):
        assert process.is_alive() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(PATIENCE)
    said = log.read_text()
    assert process.exitcode == code, said
    assert "Traceback" not in said
    step = find_checkpoints(output / "checkpoints")[-1].step
    assert step == read_metrics(output)[-1]["step"] < 9
    name = signal.Signals(number).name
    told = f"stopped by {name}; the same command resumes at {program.stage} step {step}"
    assert said.splitlines()[-1] == told
    succeeded, said = run_program(program.path, arguments, log)
    assert succeeded, said
    assert f"resuming          at step {step}" in said
    assert_same_run(output, finished)


def test_a_signal_before_the_first_step_promises_nothing(program, tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    name = "load_encoder" if program.stage == "align" else "build_model"
    monkeypatch.setattr(program.module, name, stopped)
    assert program.run(tmp_path / "run") == 143
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped by SIGTERM; there is no checkpoint: the same command starts from the beginning"
    )
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(program, finished, tmp_path):
    output = tmp_path / "run"
    arguments = program.arguments(output)
    (first,) = start_program(program.path, arguments, tmp_path / "first")
    while not (output / "config.yaml").exists():
        assert first.is_alive()
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGSTOP)  # it holds the folder for as long as it takes
    before = (output / "config.yaml").read_bytes()
    succeeded, said = run_program(program.path, [*arguments, "log_steps=5"], tmp_path / "second")
    assert not succeeded
    assert f"another run writes here (process {first.pid} on {socket.gethostname()}, since" in said
    assert "Traceback" not in said
    assert (output / "config.yaml").read_bytes() == before
    os.kill(first.pid, signal.SIGCONT)
    first.join(200)
    assert first.exitcode == 0
    assert_same_run(output, finished)


@pytest.mark.parametrize("size", [4_096, 20_000, 300_000, 1_500_000])
def test_a_full_disk_is_one_line_that_tells_the_truth(program, tmp_path, size, capsys):
    with small_disk(tmp_path / "disk", size) as disk:
        code = program.run(disk / "run", "data.cache_folder=null")
        said = capsys.readouterr().err
        left = find_checkpoints(disk / "run" / "checkpoints")
        if code == 0:
            assert size > 1_000_000
            return
        assert code == 1
        last = said.splitlines()[-1]
        assert "No space left on device" in last or "kB are free" in last
        assert "Traceback" not in said
        if "checkpoint" in said:
            hint = (
                f"resumes at {program.stage} step {left[-1].step}" if left else "from the beginning"
            )
            assert hint in said
        for checkpoint in left:
            checkpoint.check()
        assert not list(disk.rglob("*.partial"))


def test_a_folder_that_may_not_be_written_is_one_line(program, tmp_path, capsys):
    with small_disk(tmp_path / "disk", 4096, may_write=False) as disk:
        assert program.run(disk / "run") == 1
    said = capsys.readouterr().err
    assert f"error: {tmp_path}/disk/run: the folder cannot be made (Read-only file system)" in said
    (tmp_path / "file").write_text("")
    assert program.run(tmp_path / "file" / "run") == 1
    assert "the folder cannot be made (Not a directory)" in capsys.readouterr().err


def test_a_folder_that_is_deleted_meanwhile_is_one_line(program, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    write = RunLog.write

    def deleted(log, step, **values):
        if step == 3:
            shutil.rmtree(output, ignore_errors=True)
        write(log, step, **values)

    monkeypatch.setattr(RunLog, "write", deleted)
    assert program.run(output) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {output}/metrics.jsonl: the disk refuses (No such file")
    assert said.endswith("there is no checkpoint: the same command starts from the beginning.")
    assert not output.exists()


def test_a_damaged_newest_checkpoint_is_told_of_and_the_run_ends_the_same(
    program, finished, tmp_path, capsys
):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    newest = find_checkpoints(output / "checkpoints")[-1].path
    (file,) = newest.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    assert program.run(output) == 0
    said = capsys.readouterr().out
    assert f"WARNING: {newest.name} is damaged (the weights file is damaged (the checksum" in said
    assert f"resuming          at step {find_checkpoints(finished / 'checkpoints')[0].step}" in said
    assert_same_run(output, finished)


def test_a_refused_resume_names_both_values_and_changes_nothing(
    program, finished, tmp_path, capsys
):
    output = copied(finished, tmp_path / "run")
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    assert program.run(output, "seed=7") == 1
    assert "seed: 0 in the run, 7 now" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before


def test_a_replaced_image_is_noticed_at_the_resume(program, finished, tmp_path, capsys):
    output = copied(finished, tmp_path / "run")
    image = sorted(program.images.iterdir())[0]
    content, status = image.read_bytes(), image.stat()
    try:
        Image.fromarray(np.zeros((60, 70), np.uint8)).save(image)
        assert program.run(output) == 1
        said = capsys.readouterr().err
        assert "the files are not those that the run began with" in said
        assert f"{image} is new or was replaced" in said
        image.write_bytes(content)
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert program.run(output) == 0
    finally:
        image.write_bytes(content)
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert_same_run(output, finished)


def test_an_added_image_is_noticed_by_pretraining(program, finished, tmp_path, capsys):
    if program.stage == "align":
        pytest.skip("its images are those of the manifest, whose content is compared")
    output = copied(finished, tmp_path / "run")
    added = program.images / "zz.png"
    try:
        Image.fromarray(np.zeros((60, 70), np.uint8)).save(added)
        assert program.run(output) == 1
    finally:
        added.unlink()
    assert f"images of {program.images} (12 then, 13 now; {added} is new or was replaced)" in (
        capsys.readouterr().err
    )


def test_a_changed_manifest_is_noticed_by_pretraining(tmp_path, capsys):
    program = pretraining_program(make_start(tmp_path))
    studies = [
        Study(p.stem, p.stem, "train", images=(StudyImage(str(p)),), age=30.0)
        for p in sorted(program.images.iterdir())
    ]
    save_manifest(studies, tmp_path / "xrays.jsonl")
    more = [f"data.sources=[{{path: {tmp_path / 'xrays.jsonl'}}}]", "schedule.epochs=0.4"]
    more += ["schedule.warmup_epochs=0"]
    assert program.run(tmp_path / "run", *more) == 0
    capsys.readouterr()
    save_manifest([replace(studies[0], age=31.0), *studies[1:]], tmp_path / "xrays.jsonl")
    assert program.run(tmp_path / "run", *more) == 1
    assert "xrays.jsonl: another content than in the run" in capsys.readouterr().err
    save_manifest(studies, tmp_path / "xrays.jsonl")
    assert program.run(tmp_path / "run", *more) == 0
