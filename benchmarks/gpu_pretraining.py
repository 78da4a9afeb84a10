"""Pretraining in ``benchmarks/gpu.py``: the program's step, and lightly's building blocks."""

import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from gpu_measure import pinned, time_steps
from gpu_report import vit_flops
from gpu_shapes import shapes

from llava_rad.config import load_config
from llava_rad.dinov2.augmentation import MultiCrop
from llava_rad.dinov2.batches import Batch, CropBatches, DrawOrder
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.dinov2.image_sources import ImageSource
from llava_rad.dinov2.param_groups import parameter_groups
from llava_rad.dinov2.schedules import Schedules
from llava_rad.dinov2.watch import EpochWatch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "training"))

import pretrain_encoder as program  # noqa: E402

RECIPE = ROOT / "configs" / "encoder" / "rad_dino_vitb14_518.yaml"


def rows(part: str, *, tiny: bool, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """What measures each row, by its name."""
    batch = 2 if tiny else 16
    on_gpu = device == "cuda"
    ways: dict[str, dict[str, Any]]
    if part == "pretraining":
        measure = measure_project
        ways = {"plain": {}, "plain, compiled": {"compile": on_gpu}}
        ways |= {"liger": {"kernels": "liger"}} if on_gpu else {"cpu": {"kernels": "cpu"}}
        ways["plain, depth 0.3"] = {"drop_path": 0.3}
    else:
        measure = measure_lightly
        ways = {"lightly": {}, "lightly, compiled": {"compile": on_gpu}}
    return {
        name: functools.partial(measure, settings(tiny, batch, **way), device)
        for name, way in ways.items()
    }


def settings(
    tiny: bool, batch: int, kernels: str = "plain", compile: bool = False, drop_path: float = 0.0
) -> PretrainingConfig:
    """The recipe from random weights with fewer images."""
    sizes = [
        "backbone.architecture=vit_tiny",
        "backbone.image_size=98",
        "crops.global_size=98",
        "crops.local_size=42",
        "head={prototypes: 64, hidden_dim: 32, bottleneck_dim: 16}",
    ]
    if not tiny:
        sizes = ["backbone.architecture=vit_base", "backbone.image_size=518"]
    return load_config(
        PretrainingConfig,
        RECIPE,
        [
            "backbone.encoder=null",
            *sizes,
            f"backbone.drop_path={drop_path}",
            f"optimiser.batch_size={batch}",
            f"kernels={kernels}",
            f"compile={str(compile).lower()}",
        ],
    )


def measure_project(config: PretrainingConfig, device: str) -> dict[str, Any]:
    """Steps of the training program."""
    accelerator = Accelerator(cpu=device == "cpu")
    model, backbone = program.build_model(config, accelerator)
    groups = parameter_groups(
        model.student,
        backbone.num_hidden_layers,
        config.optimiser.layer_decay,
        config.optimiser.patch_embedding_lr,
    )
    optimiser = torch.optim.AdamW(groups, betas=config.optimiser.betas, fused=True)
    schedules = Schedules(config.schedule, 1e-4, 1e-6, epoch_steps=100)
    watch = EpochWatch(config.head.prototypes, backbone.hidden_size, accelerator.device)
    phase = program.Phase(config, schedules, 0)
    cycle = make_batches(config, device)
    model.train()

    def step(number: int) -> None:
        batches = [cycle[number % len(cycle)].to(accelerator.device)]
        crops = (program.normalised(batch, 0.5, 0.25) for batch in batches)
        values = schedules.at(5000 + number)
        program.train_step(config, model, optimiser, None, crops, values, phase, watch, accelerator)

    masked = sum(int(b.masks.chosen.sum()) for b in cycle) / len(cycle)
    return time_steps(
        step,
        device=device,
        warmup=3,
        steps=4,
        batch=config.optimiser.batch_size,
        flops=useful_flops(config, backbone, masked),
        unit="images/s",
    )


class _Noise(ImageSource):
    """Images that are there already."""

    def __init__(self, count: int, side: int) -> None:
        self._images = np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> np.ndarray:
        return self._images[index]

    def name(self, index: int) -> str:
        return str(index)

    def files(self) -> list[Path]:
        return []

    def fingerprint(self) -> str:
        return "noise"


def make_batches(config: PretrainingConfig, device: str) -> list[Batch]:
    """Two batches of crops, cut as in training."""
    count, crops = config.optimiser.batch_size, config.crops
    images = _Noise(2 * count, crops.global_size)
    found = CropBatches(
        [images],
        DrawOrder([len(images)], [1.0], seed=0),
        MultiCrop(crops, crops.global_size, crops.local_size),
        config.loss,
        config.backbone.patch_size,
        count,
        rank=0,
        processes=1,
        seed=0,
    )
    return [found[i].pin_memory() if device == "cuda" else found[i] for i in range(2)]


def useful_flops(config: PretrainingConfig, backbone: Any, masked: float) -> float:
    """Student three times a forward pass, teacher once; backbones and heads."""
    images, crops, head = config.optimiser.batch_size, config.crops, config.head
    large = 2 * images * vit_flops(backbone, crops.global_size)
    small = crops.local_count * images * vit_flops(backbone, crops.local_size)
    widths = [backbone.hidden_size, *[head.hidden_dim] * (head.layers - 1), head.bottleneck_dim]
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    of_token = 2.0 * (weights + head.bottleneck_dim * head.prototypes)
    seen = 2 * images + masked
    student = large + small + (seen + crops.local_count * images) * of_token
    return 3 * student + large + seen * of_token


def measure_lightly(config: PretrainingConfig, device: str) -> dict[str, Any]:
    """Steps of lightly's example, on crops of the same sizes and number."""
    for package in ("lightly", "timm"):
        if importlib.util.find_spec(package) is None:
            raise RuntimeError(f"{package} is not installed")
    from pretraining_peer import make_step

    crops, images = config.crops, config.optimiser.batch_size
    tiny = config.backbone.architecture == "vit_tiny"
    step = make_step(
        {
            "vit": "vit_small_patch14_dinov2" if tiny else "vit_base_patch14_dinov2",
            "global_size": crops.global_size,
            "prototypes": config.head.prototypes,
            "drop_path": config.backbone.drop_path,
            "precision": config.precision,
            "device": device,
            "compile": config.compile,
        }
    )
    generator = torch.Generator().manual_seed(0)
    views = [
        pinned(torch.randn(images, 3, side, side, generator=generator), device)
        for side, count in ((crops.global_size, 2), (crops.local_size, crops.local_count))
        for _ in range(count)
    ]
    masked = 2 * images * 0.5 * sum(config.loss.mask_ratio) / 2
    masked *= (crops.global_size // config.backbone.patch_size) ** 2
    return time_steps(
        lambda _: step(views),
        device=device,
        warmup=3,
        steps=4,
        batch=images,
        flops=None if tiny else useful_flops(config, shapes(False).encoder, masked),
        unit="images/s",
    )
