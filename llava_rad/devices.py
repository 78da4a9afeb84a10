"""Devices and number formats by name: the one place that says what ``auto`` means."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from llava_rad.errors import ConfigError, shown

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """A device that can be used.

    Args:
        name: as torch writes it (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"``, ``"mps"``), or
            ``"auto"``: the first of CUDA, XPU and MPS that is there, else the CPU.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device(_best())
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ConfigError(
            f"this device cannot be used ({str(error).splitlines()[0].rstrip('.')})",
            where=f"device {name}",
            remedy="Use auto or cpu, or see: llava-rad doctor",
            kind="no_device",
        ) from error
    return device


def pick_devices(name: str, processes: int | None, most: int) -> list[str]:
    """The device of each process that does a share of some work.

    Args:
        name: as for :func:`pick_device`; a kind of device without a number, and ``"auto"``, is
            spread over all there are of it.
        processes: how many; None is one for each accelerator, and one on a CPU.
        most: as many as there is work for, at least 1.

    Returns:
        As many devices as processes, for :func:`pick_device`.
    """
    kind = _best() if name == "auto" else name
    there = _count(kind)
    count = min(processes or (there if kind != "cpu" else 1), most)
    if count == 1:
        return [name]
    return [f"{kind}:{number % there}" if there > 1 else kind for number in range(count)]


def _count(kind: str) -> int:
    """How many devices there are of a kind; 1 for a device with a number, or for none at all."""
    try:
        plain = torch.device(kind).index is None
        return max(1, torch.get_device_module(kind).device_count()) if plain else 1
    except (RuntimeError, AttributeError):
        return 1


def pick_dtype(name: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """A number format.

    Args:
        name: ``"float32"``, ``"bfloat16"``, ``"float16"``, one of torch's, or ``"auto"``: bfloat16
            on CUDA, XPU and CPUs that are fast in it, float32 elsewhere.
        device: that it is for.

    Raises:
        ConfigError: there is no such format.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        kind = torch.device(device).type
        short = kind in ("cuda", "xpu") or (kind == "cpu" and cpu_is_fast_in_bfloat16())
        return torch.bfloat16 if short else torch.float32
    if name not in _DTYPES:
        raise ConfigError(
            f"dtype is {shown(name)}", remedy=f"Use auto or one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[name]


def cpu_is_fast_in_bfloat16() -> bool:
    """Whether this CPU has units that multiply in bfloat16 (AMX, AVX512-BF16).

    Others compute it in float32 and round, which is slower than float32 itself; so does one that
    ``ONEDNN_MAX_CPU_ISA`` keeps from using them.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if limit not in ("DEFAULT", "ALL") and not re.search("AMX|BF16|FP16|AVX10", limit):
        return False
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"
