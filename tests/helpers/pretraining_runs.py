"""Tiny pretraining runs: pictures, an encoder to start from, settings, and what runs leave."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from llava_rad.config import from_dict
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.encoders import Preprocessing
from llava_rad.runs import Checkpoint

PROGRAM = Path(__file__).parents[2] / "training" / "pretrain_encoder.py"


def load_program():
    """The program as a module, to be run in this process."""
    spec = importlib.util.spec_from_file_location("pretrain_encoder", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_images(folder, count=12):
    """Smooth noise, as PNG files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02}.png")


def make_encoder(folder):
    """A vision transformer of two layers for 28 pixels."""
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=28,
            layerscale_value=0.5,
        )
    ).save_pretrained(folder)
    Preprocessing(image_size=28, mean=(0.5,) * 3, std=(0.25,) * 3).write(folder)


def make_start(folder):
    """``images`` and an encoder, ``tiny``."""
    make_images(folder / "images")
    make_encoder(folder / "tiny")
    return folder


def tiny_config(start, output, **changes):
    """Settings of a run of 12 steps; ``loss__targets="centring"`` changes ``loss.targets``."""
    values = {
        "output": str(output),
        "data": {
            "sources": [{"path": str(start / "images")}],
            "cache_size": 48,
            "cache_folder": str(start / "cache"),
            "workers": 0,
        },
        "backbone": {"encoder": str(start / "tiny"), "drop_path": 0.2},
        "crops": {"global_size": 28, "local_size": 14, "local_count": 2},
        "head": {"prototypes": 16, "hidden_dim": 16, "bottleneck_dim": 8},
        "schedule": {"epochs": 4, "warmup_epochs": 1, "temperature_epochs": 2},
        "optimiser": {"batch_size": 4, "layer_decay": 1.0},
        "precision": "fp32",
        "stop_when_collapsed": False,
        "log_steps": 1,
        "checkpoint_steps": 3,
    }
    for key, value in changes.items():
        target = values
        *parents, last = key.split("__")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return from_dict(PretrainingConfig, values)


def metrics(output):
    """Rows of a run without their times and the one stage."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in row.items() if key not in ("time", "stage")} for row in rows
    ]


def losses(output):
    """Step and all losses of each step, as a tensor."""
    rows = [row for row in metrics(output) if "total" in row]
    names = ("step", "total", "dino", "ibot", "koleo")
    return torch.tensor([[row.get(name, 0.0) for name in names] for row in rows])


def encoder_weights(output):
    return load_file(output / "encoder" / "model.safetensors")


def checkpoint(output, step):
    """Weights after a step."""
    path = output / "checkpoints" / f"pretrain-{step:07d}"
    return dict(Checkpoint(path, "pretrain", step).tensors("weights"))


def assert_equal(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=tolerance, rtol=0, msg=name)
