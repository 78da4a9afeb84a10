"""A tiny model, commands as processes, and results of a folder without waiting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.live_server import live_server
from helpers.report_documents import write_image
from helpers.tiny_models import build, byte_level_tokenizer, save_tiny_model
from helpers.waiting import wait_for

from llava_rad.reports import GenerationSettings
from llava_rad.reports.formats import FORMATS
from llava_rad.serve.results import Results, own_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model():
    made = build(byte_level_tokenizer(), name="tiny-model")
    made.folder_hash = "0123456789abcdef" * 4
    return made


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def live(model):
    """A server with the default settings, for tests that change nothing of it."""
    with live_server([model]) as server:
        yield server


@pytest.fixture(scope="session")
def chest(tmp_path_factory):
    """A frontal radiograph as a DICOM file's bytes."""
    return write_image(tmp_path_factory.mktemp("chest")).read_bytes()


@pytest.fixture
def open_results(model):
    """Opens the results of a folder, as a start of the process does."""

    def start(stack, folder, output, *formats, keep=False, send=False, said=None):
        state = stack.enter_context(own_state(output or folder, keep_identifiers=keep))
        return Results(
            model,
            GenerationSettings(max_new_tokens=4),
            [FORMATS[name] for name in formats],
            state,
            folder,
            output,
            precision="float32",
            send=send,
            say=(said if said is not None else []).append,
        )

    return start


@pytest.fixture
def start(tmp_path, saved_model):
    """Starts a command; the log tells when it is ready, and nothing is left running."""
    running = []

    def run(*arguments, ready):
        log = tmp_path / f"log{len(running)}"
        command = [sys.executable, "-m", "llava_rad", *map(str, arguments), "--model", saved_model]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--max-new-tokens", "4", "--quiet", "0.5"],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "500"},
            )
        process.log = log
        running.append(process)
        wait_for(lambda: ready in log.read_text() or process.poll() is not None)
        assert ready in log.read_text(), log.read_text()
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()
