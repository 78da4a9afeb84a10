"""Commands that run the programs of ``training/`` and ``eval/`` as they stand there.

What follows the command's name is the program's own; ``--help`` prints the program's help.
"""

import importlib.util
import os
import runpy
import signal
import subprocess
import sys
from typing import Annotated, Any, Literal

import typer

from llava_rad.cli.common import user_errors

#: Passes everything on, ``--help`` included.
PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}

#: Command, the program's file, and what it does.
PROGRAMS = {
    "evaluate": ("eval/run.py", "Write a model's reports on a split and score them."),
    "score": ("eval/findings.py", "Score a file of generated findings."),
    "compare": ("eval/compare.py", "Compare files of predictions on the same studies."),
    "image-control": ("eval/image_control.py", "Measure whether reports follow the image."),
    "compare-encoders": ("eval/compare_encoders.py", "Take encoders through tasks: one table."),
    "ablate": ("eval/ablation.py", "Pretrain with one thing changed, and judge each encoder."),
    "visualise": ("eval/visualise.py", "Draw what an encoder's tokens look like."),
}
PROBES = {
    "classification": ("eval/classification.py", "Probe an encoder for findings."),
    "segmentation": ("eval/segmentation.py", "Train segmentation heads on an encoder's tokens."),
    "attributes": ("eval/attributes.py", "Probe an encoder for sex, age or any column."),
}
TRAININGS = {"report": "training/train_report.py", "encoder": "training/pretrain_encoder.py"}

probe = typer.Typer(no_args_is_help=True, help="Judge a frozen encoder on one task.")


def add_programs(app: typer.Typer) -> None:
    """Add a command for each program."""
    for name, (file, text) in PROGRAMS.items():
        app.command(name, help=text, context_settings=PASS_ON, add_help_option=False)(
            _runner(name, file)
        )
    for name, (file, text) in PROBES.items():
        probe.command(name, help=text, context_settings=PASS_ON, add_help_option=False)(
            _runner(f"probe {name}", file)
        )
    app.add_typer(probe, name="probe")


def train(
    what: Annotated[
        Literal["report", "encoder"], typer.Argument(help="A report model, or an encoder.")
    ],
    config: Annotated[
        str, typer.Argument(help="A YAML file, or a name of: llava-rad configs list.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change a setting.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes to start; default: one a GPU, or one on a CPU."),
    ] = None,
    launcher_config: Annotated[
        str | None,
        typer.Option(help="A configuration of Accelerate: a file, or ddp, fsdp2, zero2, zero3."),
    ] = None,
) -> None:
    """Train a report model, or pretrain an encoder; the same command resumes a stopped run.

    Example: llava-rad train report vicuna_7b_lora 'data.sources=[{path: mimic.jsonl}]'
    """
    with user_errors():
        from llava_rad.extras import require
        from llava_rad.programs import find_config, program

        require("train", "training")
        arguments = ["--config", str(find_config(config, what)), *(overrides or [])]
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


def _runner(name: str, file: str):
    def command(context: typer.Context) -> None:
        with user_errors():
            from llava_rad.extras import require
            from llava_rad.programs import program

            if context.args and not {"-h", "--help"} & {*context.args}:
                require("eval", f"llava-rad {name}")
            # As a module of its own name, which dataclasses and type hints look up.
            spec = importlib.util.spec_from_file_location("llava_rad_program", program(file))
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        module.app(args=context.args, prog_name=f"llava-rad {name}")

    return command


def _launch(command: list[str]) -> None:
    """Start the processes, pass signals on, and end as they end; they end with this process."""
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "LLAVA_RAD_LAUNCHER": str(os.getpid()),
    }
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
