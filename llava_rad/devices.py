"""Devices and number formats by name: the one place that says what ``auto`` means."""

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


def pick_dtype(name: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """A number format.

    Args:
        name: ``"float32"``, ``"bfloat16"``, ``"float16"``, one of torch's, or ``"auto"``: bfloat16
            on CUDA and XPU, float32 elsewhere.
        device: that it is for.

    Raises:
        ConfigError: there is no such format.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        on_gpu = torch.device(device).type in ("cuda", "xpu")
        return torch.bfloat16 if on_gpu else torch.float32
    if name not in _DTYPES:
        raise ConfigError(
            f"dtype is {shown(name)}", remedy=f"Use auto or one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[name]


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"
