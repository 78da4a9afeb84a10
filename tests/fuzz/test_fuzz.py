"""No damaged file ends in more than an error; and the run that shows it notices what does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzz import isolation
from fuzz.campaign import replay, try_kind
from fuzz.dicom import DICOM
from fuzz.inputs import Kind, only_file
from fuzz.isolation import Worker
from fuzz.kinds import KINDS
from fuzz.rasters import RASTER

from llava_rad.errors import DataError, ImageError
from llava_rad.images import load_radiograph

PROGRAM = Path(__file__).with_name("run.py")
FOLDERS = ("encoder", "llm", "model", "checkpoint")
FILES = tuple(name for name in KINDS if name not in FOLDERS)


def fuzz(*arguments):
    """Run the program; nothing may be found."""
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-5000:]
    return run.stdout


def only(names):
    return [argument for name in names for argument in ("--only", name)]


@pytest.mark.parametrize(
    ("names", "inputs"),
    [(FILES, 40), pytest.param(FOLDERS, 15, marks=pytest.mark.slow)],
    ids=["files", "folders"],
)
def test_some_damaged_inputs_of_every_kind(names, inputs, tmp_path):
    found = fuzz("--inputs", inputs, "--seed", 7, "--keep", tmp_path, *only(names))
    rows = {row[0]: row for row in map(str.split, found.splitlines()) if len(row) > 5}
    assert set(rows) == {"kind", "all", *names}
    for name in names:
        tried, loaded, refused, faults = map(int, rows[name][1:5])
        assert tried == inputs == loaded + refused
        assert faults == 0 < refused


@pytest.mark.check
def test_about_a_minute_of_damaged_inputs(tmp_path):
    """So many of each kind, not so many seconds: the same on every machine."""
    print(fuzz("--inputs", 150, "--seed", 11, "--keep", tmp_path))


@pytest.mark.parametrize("kind", [DICOM, RASTER], ids=lambda kind: kind.name)
def test_no_cut_gives_another_picture(kind):
    """Where a cut file still loads, only what follows the picture is missing."""
    for name, files in kind.seeds().items():
        (data,) = files.values()
        frame = 1 if "frames" in name or "pages" in name else None
        whole = load_radiograph(data, frame=frame).pixels
        for missing in (*range(1, 6), *range(8, len(data), max(1, len(data) // 25))):
            try:
                radiograph = load_radiograph(data[: len(data) - missing], frame=frame)
            except ImageError:
                continue
            assert np.array_equal(radiograph.pixels, whole), f"{name} without {missing} bytes"


def test_the_same_seed_makes_the_same_inputs():
    for name in ("jsonl", "yaml", "raster"):
        kind = KINDS[name]
        seeds = kind.seeds()
        first = next(iter(seeds))
        made = [[kind.mutate(seeds[first], Random(f"{n}")) for n in range(8)] for _ in range(2)]
        assert made[0] == made[1]
        assert len({json.dumps(repr(files)) for files in made[0]}) == 8


def _misbehave(folder, rng):
    """Read what the file says."""
    what = only_file(folder).read_text()
    if what == "refused":
        raise DataError("it is wrong", where="a", remedy="Do b", kind="bad")
    if what == "cannot be sent":

        class HereError(DataError):
            """Its class cannot be found from another process."""

        raise HereError("it is wrong", kind="bad")
    if what == "uncaught":
        raise KeyError("a")
    if what == "exit":
        sys.exit(3)
    if what == "abort":
        os.abort()
    if what == "loop":
        while True:
            pass
    if what == "wait":
        time.sleep(1000)
    if what == "large":
        block = bytearray(300 * 2**20)
        block[:: 2**12] = b"1" * len(block[:: 2**12])
    if what == "too large":
        bytearray(3000 * 2**20)


@pytest.mark.parametrize(
    ("what", "status", "detail"),
    [
        ("loaded", "loaded", ""),
        ("refused", "refused", "bad"),
        ("cannot be sent", "message", "bad: cannot be sent to another process"),
        ("uncaught", "uncaught", "KeyError"),
        ("exit", "uncaught", "SystemExit"),
        ("abort", "crashed", "SIGABRT"),
        ("loop", "slow", ""),
        ("wait", "hung", ""),
        ("large", "memory", ""),
        ("too large", "uncaught", "MemoryError"),
    ],
)
def test_what_an_input_did_is_noticed_and_the_next_is_read(
    what, status, detail, tmp_path, monkeypatch
):
    # Tight only where it is what ends the input: pages of memory may take seconds to come.
    if what in ("loop", "wait"):
        monkeypatch.setattr(isolation, "SECONDS", 0.2)
    monkeypatch.setattr(isolation, "WAIT", 2 if what == "wait" else 600)
    monkeypatch.setattr(isolation, "MEBIBYTES", 200.0 if "large" in what else 2048.0)
    worker = Worker(_misbehave)
    for number, content in enumerate((what, "loaded")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_text(content)
        outcome = worker.run(folder, "seed")
        if content == what:
            assert (outcome.status, outcome.detail) == (status, detail), outcome.text
            assert outcome.fault == (status not in ("loaded", "refused"))
        else:
            assert outcome.status == "loaded"
    worker.close()


def test_an_input_that_shows_a_fault_is_kept_and_can_be_run_again(tmp_path):
    kind = Kind(
        "words",
        seeds=lambda: {"one": {"file": b"loaded"}},
        mutate=lambda files, rng: {"file": rng.choice((b"uncaught", b"refused", b"loaded"))},
        read=_misbehave,
    )
    said = []
    tally = try_kind(kind, seed=1, inputs=30, seconds=0, keep=tmp_path, say=said.append)
    assert tally.inputs == 30 == tally.loaded + tally.refused["bad"] + tally.faults.total()
    ((signature, count),) = tally.faults.items()
    assert signature.startswith("uncaught KeyError test_fuzz.py:") and count > 3
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == len(said) == 3  # of one and the same fault
    for folder in kept:
        assert (folder / "file").read_bytes() == b"uncaught"
        assert replay(folder / "fuzz.json", {"words": kind}).signature == signature
