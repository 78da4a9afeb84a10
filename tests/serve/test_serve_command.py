"""``llava-rad serve`` as a command: what it refuses at its start, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx2 as httpx
import pytest
from helpers.waiting import PATIENCE, wait_for
from typer.testing import CliRunner

from llava_rad.cli import app
from llava_rad.cli.serve import TOKEN_VARIABLE


def refused(*arguments, **environment):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)], env=environment)
    [line] = result.stderr.strip().splitlines()
    return result.exit_code, line


def test_an_address_that_is_taken_is_told_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refused("no-such-model", "--port", port)
    assert code == 1 and f"127.0.0.1:{port}: cannot listen" in line and "--port" in line
    for host in ("no-such-host.invalid", "two..dots", "x" * 70):
        code, line = refused("--host", host)
        assert code == 1 and "cannot listen" in line


@pytest.mark.parametrize("token", ["", "short", "with spaces in between", "ünïcode-of-some-length"])
def test_a_token_that_is_none_is_refused(token, tmp_path):
    (tmp_path / "token").write_text(f"{token}\n")
    code, line = refused("--token-file", tmp_path / "token")
    assert code == 2 and "a token has at least 16" in line and (not token or token not in line)
    code, line = refused(**{TOKEN_VARIABLE: token})
    assert code == 2 and TOKEN_VARIABLE in line


def test_other_wrong_settings_end_with_2(tmp_path):
    assert refused("--token-file", tmp_path / "none")[0] == 2
    assert "is no origin" in refused("--allow-origin", "viewer")[1]
    for option in ("--queue", "--batch-size", "--max-upload", "--port"):
        result = CliRunner().invoke(app, ["serve", option, "-1"])
        assert result.exit_code == 2
    assert CliRunner().invoke(app, ["serve", "--max-upload", "inf"]).exit_code == 2


@pytest.mark.slow
def test_a_signal_ends_it_when_what_is_in_hand_is_done(saved_model, chest, tmp_path):
    log = tmp_path / "log"
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    command = ["serve", saved_model, "--port", "0", "--token-file", str(tmp_path / "token")]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "llava_rad", *command, "--max-new-tokens", "200"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "500"},
        )
    try:
        wait_for(lambda: "serving tiny-model on" in log.read_text() or process.poll() is not None)
        url = re.search(r"http://127.0.0.1:\d+", log.read_text())[0]
        headers = {"authorization": "Bearer a-token-of-some-length"}
        with httpx.stream(
            *("POST", f"{url}/v1/report"),
            files={"files": chest},
            data={"stream": "true"},
            headers=headers,
            timeout=PATIENCE,
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: text"
            threading.Thread(target=process.send_signal, args=(signal.SIGTERM,)).start()
            assert "event: done" in list(lines)
        assert process.wait(PATIENCE) == 143
        said = log.read_text().splitlines()
        assert said[-1] == "stopped; requests in hand were finished"
        assert "POST /v1/report 200" in said[-2]
    finally:
        process.kill()
        process.wait()
