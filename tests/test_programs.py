"""Programs and configurations are found by name, from a checkout and from the wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_rad import programs
from llava_rad.cli import app
from llava_rad.cli.programs import PROBES, PROGRAMS, TRAININGS
from llava_rad.errors import ConfigError
from llava_rad.programs import CONFIG_KINDS, config_names, find_config, program

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_configuration_is_found_by_name_and_by_file(tmp_path):
    expected = ROOT / "configs" / "report" / "vicuna_7b_lora.yaml"
    assert find_config("vicuna_7b_lora", "report").samefile(expected)
    assert find_config("report/vicuna_7b_lora", "encoder").samefile(expected)
    own = tmp_path / "own.yaml"
    own.touch()
    assert find_config(own, "report") == own


def test_an_unknown_name_gives_the_close_ones():
    with pytest.raises(ConfigError, match="Did you mean vicuna_7b_lora"):
        find_config("vicuna_7b_lor", "report")
    result = run("plan", "nothing")
    assert result.exit_code == 2
    assert "configs list" in result.stderr and "Did you mean" not in result.stderr


def test_every_configuration_belongs_to_a_named_kind():
    assert {path.name for path in (ROOT / "configs").iterdir()} == set(CONFIG_KINDS)
    listed = run("configs", "list").stdout
    for name in config_names():
        assert name in listed


def test_every_program_that_a_command_runs_is_there():
    files = [file for file, _ in (*PROGRAMS.values(), *PROBES.values())]
    for file in (*files, *TRAININGS.values()):
        assert program(file).is_file(), file


def test_a_program_runs_under_the_name_of_its_command(tmp_path):
    result = run("score", tmp_path / "missing.jsonl", "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert "missing.jsonl" in result.stderr
    assert "llava-rad compare-encoders" in run("compare-encoders", "--help").stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("llava-rad eva", "evaluate"),
        ("llava-rad evaluate --quant", "--quantize"),
        ("llava-rad evaluate --split te", "test"),
        ("llava-rad probe cl", "classification"),
    ],
)
def test_the_shell_completes_commands_and_the_options_of_programs(typed, completed):
    environment = {
        "_LLAVA_RAD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    result = CliRunner().invoke(app, [], prog_name="llava-rad", env=environment)
    assert result.stdout.split() == [completed], result.output


def test_a_configuration_is_copied_with_its_base_and_never_over_a_file(tmp_path):
    name = "vicuna_7b_full_biomedclip_cxr"
    assert run("configs", "copy", name, "-o", tmp_path).exit_code == 0
    copied = (tmp_path / f"{name}.yaml").read_text()
    assert copied == find_config(name, "report").read_text()
    again = run("configs", "copy", name, "-o", tmp_path)
    assert again.exit_code == 2 and "there already" in again.stderr
    from llava_rad.config import load_config
    from llava_rad.report_training import ReportTrainingConfig

    settings = load_config(ReportTrainingConfig, tmp_path / f"{name}.yaml")
    assert settings == load_config(ReportTrainingConfig, find_config(name, "report"))


class Ended:
    """A process that has ended with 3."""

    def wait(self):
        return 3


def test_training_starts_as_many_processes_as_told(monkeypatch):
    started = []
    monkeypatch.setattr("llava_rad.cli.programs._gpus", lambda: 0)
    monkeypatch.setattr(
        "llava_rad.cli.programs.subprocess.Popen",
        lambda command, **_: started.append(command) or Ended(),
    )
    command = ["train", "report", "smollm2_mini", "output=out", "--processes"]
    assert run(*command, 2).exit_code == 3
    assert started[0][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert started[0][5:] == [
        str(program("training/train_report.py")),
        str(find_config("smollm2_mini", "report")),
        "output=out",
    ]
    monkeypatch.setattr("llava_rad.cli.programs._gpus", lambda: 4)
    run("train", "encoder", "vits14_224")
    assert started[1][2:6] == ["accelerate.commands.launch", "--num_processes", "4", "--multi_gpu"]
    run("train", "report", "vicuna_7b_full", "--launcher-config", "fsdp2")
    assert started[2][3:5] == ["--config_file", str(find_config("fsdp2", "accelerate"))]


def test_a_launcher_leaves_time_for_a_step_and_a_checkpoint_after_a_signal(monkeypatch):
    from torch.distributed.launcher.api import LaunchConfig

    given = {}
    monkeypatch.setattr("llava_rad.cli.programs._gpus", lambda: 0)
    monkeypatch.setattr(
        "llava_rad.cli.programs.subprocess.Popen", lambda _, env: given.update(env) or Ended()
    )
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    for wanted, said in ((600, None), (90, "90")):
        if said:
            monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", said)
        run("train", "report", "smollm2_mini", "output=out", "--processes", 2)
        with monkeypatch.context() as launcher:  # what torch makes of it
            launcher.setenv(
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", given["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
            )
            config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2)
            if hasattr(config, "shutdown_timeout"):  # torch 2.11 always waits 30 seconds
                assert config.shutdown_timeout == wanted


def test_an_installation_without_programs_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "__file__", str(tmp_path / "llava_rad" / "programs.py"))
    with pytest.raises(ConfigError, match="holds no programs"):
        program("eval/run.py")


@pytest.mark.check
def test_the_wheel_runs_without_a_checkout(tmp_path):
    """Built, put into an empty folder, and run from there on the packages installed here."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(wheel, check=True)
    (file,) = (tmp_path / "dist").glob("*.whl")
    place = tmp_path / "place"
    install = [*pip, "install", "--no-deps", "--target", str(place), str(file)]
    subprocess.run(install, check=True)
    environment = os.environ | {"PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}

    def call(*arguments):
        command = [sys.executable, "-m", "llava_rad", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    where = [sys.executable, "-c", "import llava_rad; print(llava_rad.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(place))
    listed = call("configs", "list").stdout
    assert "report/vicuna_7b_lora" in listed and "encoder/rad_dino_vitb14_518" in listed
    assert call("configs", "copy", "vicuna_7b_lora", "-o", "mine.yaml").returncode == 0
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text(
        '{"id": "a", "prediction": "The heart is normal.", "reference": "The heart is normal."}\n'
        '{"id": "b", "prediction": "No effusion.", "reference": "Small pleural effusion."}\n'
    )
    scored = call("score", "predictions.jsonl", "-o", "scores", "--resamples", 20)
    assert scored.returncode == 0, scored.stderr
    assert (tmp_path / "scores" / "report.html").is_file()
    planned = call("plan", "mine.yaml", "--studies", 1000)
    assert planned.returncode == 0 and "1,000 studies" in planned.stdout, planned.stderr
    data = call("train", "report", "smollm2_mini", "data.sources=[{path: nothing.jsonl}]")
    assert data.returncode != 0 and "nothing.jsonl" in data.stderr
