"""Run a program of the checkout in processes of its own that start at once.

A server process imports the heavy libraries a single time and forks; what it forks are real
processes that can be killed.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "accelerate",
        "datasets",
        "llava_rad.dinov2",
        "llava_rad.report_training",
        "llava_rad.runs.launch",
        "matplotlib.figure",
        "peft",
        "pydantic",
        "torch.utils.tensorboard",
        "transformers.models.dinov2.modeling_dinov2",
        "transformers.models.llama.modeling_llama",
        "typer",
    ]
)
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    """Of a program that is started by a launcher of its own."""
    root = Path(__file__).parents[2]
    return {**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(root)}


def start_program(
    program: Path,
    arguments: Sequence[str],
    log: Path,
    *,
    processes: int = 1,
    environment: dict[str, str] | None = None,
) -> list[BaseProcess]:
    """Start a program, on several processes with the environment that ``torchrun`` gives them."""
    started = []
    port = str(_free_port())
    for rank in range(processes):
        values = {**_ENVIRONMENT, **(environment or {})}
        if processes > 1:
            values |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        process = _CONTEXT.Process(target=_run, args=(program, list(arguments), log, values))
        process.start()
        started.append(process)
    return started


def run_program(
    program: Path,
    arguments: Sequence[str],
    log: Path,
    *,
    processes: int = 1,
    environment: dict[str, str] | None = None,
) -> tuple[bool, str]:
    """Run to the end: whether every process succeeded, and what they printed."""
    log.unlink(missing_ok=True)
    started = start_program(program, arguments, log, processes=processes, environment=environment)
    for process in started:
        process.join(600)
        process.kill()
    return all(process.exitcode == 0 for process in started), log.read_text()


def _run(program: Path, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    gc.freeze()  # what the server imported is not gone through again
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    for stream in (1, 2):
        os.dup2(sys.stdout.fileno(), stream)
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
