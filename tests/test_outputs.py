"""Outputs: no input is written over, no stranger's file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from llava_rad.errors import DataError
from llava_rad.outputs import (
    has_keys,
    is_special,
    own_file,
    own_folder,
    refuse_foreign,
    refuse_inputs,
    write_result,
)
from llava_rad.runs.together import owned_folder


def test_an_input_is_refused_by_any_name(tmp_path, monkeypatch):
    picture = tmp_path / "in.jpg"
    picture.write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to(picture)
    os.link(picture, tmp_path / "hard.jpg")
    monkeypatch.chdir(tmp_path)
    for output in (picture, "in.jpg", "./in.jpg", tmp_path / "link.jpg", tmp_path / "hard.jpg"):
        with pytest.raises(DataError) as caught:
            refuse_inputs(output, ["elsewhere.png", str(picture)])
        assert caught.value.kind == "output_is_input"
    refuse_inputs("new.jpg", [picture])
    refuse_inputs(tmp_path / "hard.jpg", ["elsewhere.png"])
    refuse_inputs("/dev/null", ["/dev/null"])


def test_a_stranger_is_refused_and_overwrite_replaces_it(tmp_path):
    output = tmp_path / "out"
    refuse_foreign(output, lambda _: False, "x")
    output.touch()
    refuse_foreign(output, lambda _: False, "x")
    output.write_text("[1]")
    with pytest.raises(DataError, match="it is no list") as caught:
        refuse_foreign(output, lambda path: has_keys(path, "a"), "list")
    assert caught.value.kind == "foreign_output"
    refuse_foreign(output, lambda _: False, "list", overwrite=True)
    output.write_text('{"a": 1}')
    refuse_foreign(output, lambda path: has_keys(path, "a"), "list")
    with pytest.raises(DataError, match="folder"):
        refuse_foreign(tmp_path, lambda _: True, "list", overwrite=True)


def test_a_device_belongs_to_nobody(tmp_path):
    assert is_special(Path(os.devnull))
    with own_file(os.devnull, "run"), own_file(os.devnull, "run"):
        write_result(os.devnull, "text")


def test_an_output_has_one_run(tmp_path):
    output = tmp_path / "new" / "out"
    with own_file(output, "run"), pytest.raises(DataError) as caught, own_file(output, "run"):
        pass
    assert caught.value.kind == "in_use"
    with own_folder(tmp_path / "made", "run"):
        pass
    assert not (tmp_path / "made").exists()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    for write in (
        lambda: write_result(tmp_path / "file" / "out", "text"),
        lambda: own_file(tmp_path / "file" / "out", "run").__enter__(),
        lambda: own_folder(tmp_path / "file" / "out", "run").__enter__(),
    ):
        with pytest.raises(DataError) as caught:
            write()
        assert caught.value.kind == "not_writable"


@pytest.mark.parametrize("kind", ["file", "folder", "training"])
def test_what_a_killed_run_was_writing_is_cleared_by_the_next(tmp_path, kind):
    code = (
        "import os, sys; from llava_rad.files import write_atomically\n"
        "with write_atomically(sys.argv[1]): os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.json")], check=False)
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    owned = {
        "file": lambda: own_file(tmp_path / "other.jsonl", "run of data"),
        "folder": lambda: own_folder(tmp_path, "evaluation"),
        "training": lambda: owned_folder(tmp_path, Accelerator(cpu=True)),
    }
    with owned[kind]():
        assert not list(tmp_path.glob(".*.partial"))
