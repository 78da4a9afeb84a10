"""What every part of ``benchmarks/gpu.py`` measures alike: time, memory, share of the peak."""

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from llava_rad.runs.gpus import GPUS

Step = Callable[[int], object]


def gpu_kind(device: str) -> str:
    """The card's name in :data:`llava_rad.report_training.plan.GPUS`; else an H100."""
    name = torch.cuda.get_device_name().lower() if device == "cuda" else ""
    if "a100" in name:
        return "a100-80gb" if "80g" in name else "a100-40gb"
    return next((kind for kind in GPUS if kind.replace("-", " ") in name or kind in name), "h100")


def time_steps(
    step: Step, *, device: str, warmup: int, steps: int, batch: int, flops: float | None, unit: str
) -> dict[str, Any]:
    """Take steps and say how fast they were.

    Args:
        step: takes the step of a number, counted from 0.
        device: ``cuda`` or ``cpu``.
        warmup: steps that are not timed.
        steps: timed ones.
        batch: units of each step.
        flops: useful operations of a timed step on average; None where there is no share to tell.
        unit: of the rate.
    """
    begun = time.perf_counter()
    step(0)
    synchronise(device)
    first = time.perf_counter() - begun
    for number in range(1, warmup):
        step(number)
    synchronise(device)
    begun = time.perf_counter()
    for number in range(warmup, warmup + steps):
        step(number)
    synchronise(device)
    seconds = (time.perf_counter() - begun) / steps
    peak = GPUS[gpu_kind(device)].flops if device == "cuda" else None
    return {
        "batch": batch,
        "rate": batch / seconds,
        "unit": unit,
        "step_seconds": seconds,
        "first_seconds": first,
        "mfu": None if peak is None or flops is None else flops / seconds / peak,
        "flops": flops,
        "peak_gb": peak_gb(device),
    }


def synchronise(device: str) -> None:
    """Wait until the GPU has done all."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: str) -> float:
    """Largest memory so far: of the GPU since the last row, of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def pinned(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """The tensor where a GPU can fetch it by itself."""
    return tensor.pin_memory() if device == "cuda" else tensor
