"""GPUs that plans are made for, as their makers' data sheets state them."""

from dataclasses import dataclass

from llava_rad.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker's data sheet states it.

    Attributes:
        memory: in GB.
        flops: of dense bfloat16 matrix products, a second.
        bandwidth: of its memory, bytes a second.
    """

    memory: float
    flops: float
    bandwidth: float


GPUS: dict[str, Gpu] = {
    "rtx-4090": Gpu(24, 165e12, 1.01e12),
    "a10g": Gpu(24, 70e12, 0.60e12),
    "l40s": Gpu(48, 362e12, 0.86e12),
    "a100-40gb": Gpu(40, 312e12, 1.56e12),
    "a100-80gb": Gpu(80, 312e12, 2.04e12),
    "h100": Gpu(80, 989e12, 3.35e12),
    "h200": Gpu(141, 989e12, 4.80e12),
}

#: Share of a GPU's rated operations that training reaches: measured by ``benchmarks/gpu.py`` on an
#: H200, Vicuna 7B with LoRA at a micro-batch of 2, plain kernels (docs/speed.md; Liger's: 0.33).
UTILISATION = 0.29


def find_gpu(name: str) -> Gpu:
    """A GPU by name.

    Raises:
        ConfigError: it is not known.
    """
    if name not in GPUS:
        raise ConfigError(f"unknown GPU '{name}'", where="gpu", remedy=f"Use {', '.join(GPUS)}")
    return GPUS[name]
