"""Commands that run the programs of ``training/`` and ``eval/`` as they stand there.

The options and help of such a command are the program's own.
"""

import importlib.util
import os
import runpy
import signal
import subprocess
import sys
from typing import Annotated, Any, ClassVar, Literal

import typer

from llava_rad.cli.command import LOOK, Group
from llava_rad.cli.common import user_errors
from llava_rad.cli.options import Config, Overrides

#: Command, the program's file, and what it does.
PROGRAMS = {
    "evaluate": ("eval/run.py", "Write a model's reports on a split and score them."),
    "score": ("eval/findings.py", "Score a file of generated findings."),
    "compare": ("eval/compare.py", "Compare files of predictions on the same studies."),
    "image-control": ("eval/image_control.py", "Measure whether reports follow the image."),
    "compare-encoders": ("eval/compare_encoders.py", "Take encoders through tasks: one table."),
    "train-observations": (
        "training/train_observations.py",
        "Train what a model tells beside its text.",
    ),
    "ablate": ("eval/ablation.py", "Pretrain with one thing changed, and judge each encoder."),
    "visualise": ("eval/visualise.py", "Draw what an encoder's tokens look like."),
}
PROBES = {
    "classification": ("eval/classification.py", "Probe an encoder for findings."),
    "segmentation": ("eval/segmentation.py", "Train segmentation heads on an encoder's tokens."),
    "attributes": ("eval/attributes.py", "Probe an encoder for sex, age or any column."),
}
TRAININGS = {"report": "training/train_report.py", "encoder": "training/pretrain_encoder.py"}


class _ProgramGroup(Group):
    """Its own commands, and those of programs, which are read when they are asked for."""

    programs: ClassVar[dict[str, tuple[str, str]]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the help."""
        return [*super().list_commands(ctx), *self.programs]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command of this group, or a program's."""
        if cmd_name not in self.programs:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(load_program(self.programs[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def about(self, ctx: Any, name: str) -> str:
        """The line of a command, without reading its program."""
        return self.programs[name][1] if name in self.programs else super().about(ctx, name)


class Programs(_ProgramGroup):
    """All commands."""

    programs = PROGRAMS


class Probes(_ProgramGroup):
    """The probes of an encoder."""

    programs = PROBES


probe = typer.Typer(
    cls=Probes, no_args_is_help=True, help="Judge a frozen encoder on one task.", **LOOK
)


@probe.callback()
def _probe() -> None:
    """Without a command of its own, typer wants to be told that this is a group."""


def load_program(file: str) -> Any:
    """The module of a program, under a name of its own, which dataclasses and type hints look up.

    Raises:
        ConfigError: the installation is without programs.
    """
    from llava_rad.programs import program

    path = program(file)
    name = f"llava_rad_program_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def train(
    what: Annotated[
        Literal["report", "encoder"],
        typer.Argument(metavar="report|encoder", help="Whether a report model or an encoder."),
    ],
    config: Config,
    overrides: Overrides = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many processes to start; by default one a GPU, or one on a CPU."
        ),
    ] = None,
    launcher_config: Annotated[
        str | None,
        typer.Option(help="A configuration of Accelerate: a file, or ddp, fsdp2, zero2, zero3."),
    ] = None,
) -> None:
    """Train a report model, or pretrain an encoder; the same command resumes a stopped run.

    Example:
        llava-rad train report vicuna_7b_lora data.sources=mimic.jsonl output=runs/mine
        llava-rad train encoder vits14_224 data.sources=/data/xrays output=runs/encoder
    """
    with user_errors():
        from llava_rad.extras import require
        from llava_rad.programs import find_config, program

        require("train", "training")
        arguments = [str(find_config(config, what)), *(overrides or [])]
        file = str(program(TRAININGS[what]))
        launcher = None if launcher_config is None else find_config(launcher_config, "accelerate")
        gpus = _gpus()
        count = processes or max(1, gpus)
        if launcher is not None or (gpus and count > 1):
            options = [] if launcher is None else ["--config_file", str(launcher)]
            if processes is not None or launcher is None:
                options += ["--num_processes", str(count)]
            if launcher is None:
                options += ["--multi_gpu"]
            _launch(["accelerate.commands.launch", *options, file, *arguments])
        elif count > 1:
            # On a CPU Accelerate's launcher starts a single process whatever it is told.
            options = ["--standalone", f"--nproc_per_node={count}"]
            _launch(["torch.distributed.run", *options, file, *arguments])
        else:
            sys.argv = [file, *arguments]
            runpy.run_path(file, run_name="__main__")


def _launch(command: list[str]) -> None:
    """Start the processes, pass signals on, and end as they end; they end with this process."""
    # After a signal torch's launcher kills in 30 seconds what has not ended, and a large model's
    # step and checkpoint take longer.
    usual = {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
    environment = usual | os.environ | {"LLAVA_RAD_LAUNCHER": str(os.getpid())}
    stopped: list[int] = []
    started = subprocess.Popen([sys.executable, "-m", *command], env=environment)

    def pass_on(number: int, _frame: Any) -> None:
        stopped.append(number)
        started.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = started.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise typer.Exit(128 + stopped[0] if stopped else code)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
