"""One run owns an output; its lock dies with it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from llava_rad import locks
from llava_rad.errors import DataError
from llava_rad.locks import FileLock, FolderLock, locked

HOLDER = """
import sys, time
from llava_rad.locks import FolderLock
lock = FolderLock(sys.argv[1], place=int(sys.argv[2]))
lock.acquire()
if sys.argv[3:]:
    import os
    if os.fork() == 0:
        time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts processes that hold a place of the folder's lock."""
    started = []

    def start(place=0, *more):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), str(place), *more],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_run_is_refused_with_process_and_host(tmp_path, hold):
    holder = hold()
    with pytest.raises(DataError) as caught:
        FolderLock(tmp_path).acquire()
    assert caught.value.kind == "in_use"
    assert f"process {holder.pid} on {socket.gethostname()}, since 2" in str(caught.value)


def test_a_killed_holder_is_followed_at_once_whatever_it_forked(tmp_path, hold):
    holder = hold(0, "fork")
    holder.kill()
    holder.wait()
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_run_whose_main_process_is_gone_keep_others_out(tmp_path, hold):
    main, worker = hold(0), hold(3)
    main.kill()
    main.wait()
    with pytest.raises(DataError, match="another run writes here"):
        FolderLock(tmp_path).acquire()
    worker.kill()
    worker.wait()
    FolderLock(tmp_path).acquire()
    locks._held.clear()


def test_the_main_process_leaves_the_file_while_others_of_its_run_hold_it(tmp_path, hold):
    own = FolderLock(tmp_path)
    own.acquire()
    worker = hold(1)
    own.release()
    assert (tmp_path / ".lock").exists()
    with pytest.raises(DataError, match="another run"):
        FolderLock(tmp_path).acquire()
    worker.kill()


def test_the_last_holder_removes_the_file(tmp_path):
    held = [FolderLock(tmp_path, place=place) for place in (0, 1)]
    for lock in held:
        lock.acquire()
    held[0].release()
    held[1].release()
    assert list(tmp_path.iterdir()) == []


def test_one_process_has_a_lock_once(tmp_path):
    with FolderLock(tmp_path), pytest.raises(DataError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path), FolderLock(tmp_path, place=1):
        pass


def test_a_lock_of_one_output_file_lies_beside_it(tmp_path):
    with locked(tmp_path / "out.jsonl") as lock:
        assert [p.name for p in tmp_path.iterdir()] == [".out.jsonl.lock"]
        with pytest.raises(DataError, match="another run"):
            FileLock(tmp_path / ".out.jsonl.lock").acquire()
        assert lock.is_current()
        (tmp_path / ".out.jsonl.lock").unlink()
        assert not lock.is_current()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_it_when_it_is_free(tmp_path, hold):
    holder = hold()
    told = []

    def tell(reason):
        told.append(reason)
        holder.kill()

    lock = FolderLock(tmp_path)
    lock.wait(tell, every=0.01)
    assert len(told) == 1
    lock.release()


def test_a_run_on_another_host_that_did_not_end_is_told_of(tmp_path, caplog):
    (tmp_path / ".lock").write_text('{"process": 7, "host": "elsewhere"}')
    with FolderLock(tmp_path):
        assert "a run on elsewhere (process 7) has not said that it ended" in caplog.text


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def none(*_arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks, "_lock", none)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    assert "this file system has no locks" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError) as caught:
            FolderLock(folder).acquire()
        assert caught.value.kind == "not_writable"
