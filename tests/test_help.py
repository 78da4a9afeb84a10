"""The help of every command and program: quick, whole at 80 columns, and with an example."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("eval", "training")
    for path in (ROOT / folder).glob("*.py")
)

# Prints, for each command and program: its options, its help, and what went to stderr.
ASK = """
import contextlib, io, json, runpy, sys
import typer
from llava_rad.cli import app

programs = json.loads(sys.argv[1])
found = {}

def ask(run):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
            code = None
        except SystemExit as ended:
            code = ended.code
    return {"code": code, "help": out.getvalue(), "error": err.getvalue()}

def walk(command, path):
    names = [name for parameter in command.params for name in parameter.opts if "-" in name]
    for flag in ("--help", "-h"):
        asked = ask(lambda: root.main([*path, flag], prog_name="llava-rad"))
        found[" ".join([*path, flag])] = {**asked, "names": names, "group": False}
    if hasattr(command, "list_commands"):
        found[" ".join([*path, flag])]["group"] = found[" ".join([*path, "--help"])]["group"] = True
        for name in command.list_commands(None):
            walk(command.get_command(None, name), [*path, name])

root = typer.main.get_command(app)
walk(root, [])
for program in programs:
    for flag in ("--help", "-h"):
        sys.argv = [program, flag]
        asked = ask(lambda: runpy.run_path(program, run_name="__main__"))
        found[f"{program} {flag}"] = {**asked, "names": [], "group": False}
heavy = [name for name in ("torch", "transformers", "accelerate", "peft") if name in sys.modules]
print(json.dumps([found, heavy]))
"""


@pytest.fixture(scope="module")
def asked():
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(PROGRAMS)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "80", "HOME": "/nowhere", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_imports_neither_torch_nor_transformers(asked):
    found, heavy = asked
    assert heavy == []
    assert {"evaluate --help", "probe segmentation -h", "train --help"} <= set(found)
    assert {f"{program} --help" for program in PROGRAMS} <= set(found)


def test_help_ends_well_and_says_nothing_else(asked):
    for name, one in asked[0].items():
        assert one["code"] == 0, (name, one)
        assert one["error"] == "", name
        assert one["help"].startswith("Usage: "), name


def test_no_name_is_cut(asked):
    for name, one in asked[0].items():
        assert max(map(len, one["help"].splitlines())) <= 110, name  # examples are not wrapped
        assert "…" not in one["help"], name
        for option in one["names"]:
            assert option in one["help"].replace(",", " ").split(), (name, option)
    assert "uncertain_positive/14/micro/f1]" in asked[0]["score --help"]["help"]


def test_every_command_has_an_example_and_says_its_exit_codes(asked):
    for name, one in asked[0].items():
        if one["group"]:
            continue
        command = name.rpartition(" ")[0]
        lines = [line.strip() for line in one["help"].splitlines() if line.startswith("    ")]
        typed = f"python {command}" if command.endswith(".py") else f"llava-rad {command}"
        assert any(line.startswith(typed) for line in lines), name
        assert "143 stopped by SIGTERM" in " ".join(one["help"].split()), name


def test_the_same_thing_has_the_same_name(asked):
    names = {name for one in asked[0].values() for name in one["names"]}
    assert not names & {"--out", "--json", "--llm", "--config", "--batch", "--cpu"}
    for name, one in asked[0].items():
        assert ("-o" in one["names"]) == ("--output" in one["names"]), name
    generating = [n for n in asked[0] if n.split()[0] in ("report", "evaluate", "image-control")]
    for name in generating:
        wanted = {"--model", "--base-llm", "--device", "--dtype", "--quantize", "--batch-size"}
        wanted |= {"--num-beams", "--temperature", "--top-p", "--seed", "--max-new-tokens"}
        assert wanted <= set(asked[0][name]["names"]), name
        assert "[default: 8;" in " ".join(asked[0][name]["help"].split()), name
