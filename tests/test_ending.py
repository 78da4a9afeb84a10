"""How programs end: codes, one line, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_rad.ending import plain_ending
from llava_rad.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
STARTS = {
    "-m llava_rad": ["-m", "llava_rad", "report"],
    **{
        f"{file.parent.name}/{file.name}": [str(file)]
        for file in sorted([*(ROOT / "eval").glob("*.py"), *(ROOT / "training").glob("*.py")])
    },
}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("it is wrong", where="here"), 1, "error: here: it is wrong."),
        (ConfigError("it is wrong"), 2, "error: it is wrong."),
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
        (OSError(28, "No space left on device", "/out"), 1, "error: /out: No space left on device"),
    ],
)
def test_each_end_has_its_code_and_line(error, code, said):
    lines = []
    with pytest.raises(SystemExit) as ended, plain_ending(lines.append, "nothing was written"):
        raise error
    assert ended.value.code == code
    assert len(lines) == 1 and lines[0].startswith(said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("inside", [True, False])
def test_a_signal_ends_the_command_anywhere(number, code, inside):
    # inside a command, or between the command line and it, where Typer has a say
    text = (
        "import os, sys, typer\n"
        "from llava_rad.cli import app, main\n"
        "from llava_rad.cli.common import user_errors\n"
        "@app.command()\n"
        "def wait():\n"
        f"    stopped = user_errors('all was kept') if {inside} else __import__('contextlib')"
        ".nullcontext()\n"
        "    with stopped:\n"
        "        print('ready', flush=True); sys.stdin.read()\n"
        "main(['wait'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.wait() == code
        said = process.stderr.read()
    assert "Traceback" not in said
    if inside:
        assert said == "stopped; all was kept\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("start", STARTS)
def test_a_signal_ends_a_program_quietly_while_it_is_being_imported(start, number, code, tmp_path):
    # What every program imports first of all that is not Python's own stops there.
    waits = "import sys; print('ready', flush=True); sys.stdin.read()"
    for name in ("numpy", "typer", "torch"):
        (tmp_path / f"{name}.py").write_text(waits)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, *STARTS[start]],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.wait() == code
        assert process.stderr.read() == ""
