"""The published recipes: what they say, and that each one runs."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers.pretraining_runs import encoder_weights, load_program, make_start
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from llava_rad.config import load_config
from llava_rad.dinov2.backbone import build_backbone
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.dinov2.schedules import Schedules, scaled_lr
from llava_rad.encoders import ENCODERS, Preprocessing

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "encoder").glob("*.yaml"))


def _load(name, *overrides):
    return load_config(PretrainingConfig, CONFIGS / "encoder" / f"{name}.yaml", overrides)


@pytest.mark.parametrize("name", NAMES)
def test_backbone_takes_the_crops(name):
    config = _load(name)
    if config.backbone.encoder is not None:
        assert config.backbone.encoder in ENCODERS
        assert ENCODERS[config.backbone.encoder].about.startswith("ViT-B/14")
        config.check_crop_sizes(14)
    else:
        with torch.device("meta"):
            backbone = build_backbone(config.backbone)
        config.check_crop_sizes(backbone.config.patch_size)


@pytest.mark.parametrize("name", NAMES)
def test_schedules_cover_the_run(name):
    config = _load(name)
    schedules = Schedules(config.schedule, 1.0, 0.0, epoch_steps=100)
    first, last = schedules.at(0), schedules.at(schedules.steps - 1)
    assert first.lr == 0
    assert last.lr < 1e-3
    assert last.momentum == pytest.approx(config.schedule.momentum[1], abs=1e-4)
    assert last.teacher_temperature == config.schedule.teacher_temperature[1]


def test_cxformers_published_values():
    config = _load("cxr_vitb14_reg4_518")
    assert config.backbone.encoder == "dinov2-base-registers"
    assert (config.crops.global_size, config.crops.local_size) == (518, 98)
    assert (config.crops.global_scale, config.crops.local_scale) == ((0.32, 1), (0.05, 0.32))
    assert scaled_lr(config.optimiser, 16 * config.optimiser.batch_size) == pytest.approx(3e-4)
    assert config.schedule.weight_decay == (0, 0)
    assert config.backbone.drop_path == 0
    assert config.schedule.momentum == (0.999, 0.999)
    assert config.head.prototypes == config.ibot_head.prototypes == 131072
    assert (config.schedule.warmup_epochs, config.schedule.epochs) == (10, 100)


def test_rad_dinos_published_values():
    config = _load("rad_dino_vitb14_518")
    assert config.backbone.encoder == "dinov2-base"
    assert config.crops.global_size == 518
    assert 16 * 4 * config.optimiser.batch_size == 2560
    assert math.ceil(838_336 / 2560) == 328  # steps an epoch
    assert config.data.rendering == "minmax"
    # The published dino_head.safetensors: 92.6 MB of float32, weight and gain of the last layer.
    head = config.head
    assert (head.layers, head.prototypes) == (3, 65536)
    sizes = (768, head.hidden_dim, head.hidden_dim, head.bottleneck_dim)
    layers = sum(a * b + b for a, b in itertools.pairwise(sizes))
    last = head.prototypes * head.bottleneck_dim + head.prototypes
    assert round(4 * (layers + last) / 1e6, 1) == 92.6
    # New heads do not touch the trained backbone before they have learned something.
    assert config.heads is None
    assert config.schedule.heads_only_epochs > 0
    blur, dinov2_blur = config.crops.blur, (1.0, 0.1, 0.5)
    assert all(own <= theirs for own, theirs in zip(blur, dinov2_blur, strict=True))
    assert config.crops.global_scale[0] > 0.32


@pytest.mark.parametrize(
    ("file", "name"),
    [("docs/mini.md", "mini_vitti14"), ("training/make_mini.py", "mini_vitti14_112")],
)
def test_the_bundled_encoders_recipe_is_that_of_the_configs(file, name):
    """What made the bundled encoder, and what a program that makes one runs, users can run."""
    assert f"configs/encoder/{name}.yaml" in (CONFIGS.parent / file).read_text()
    config = _load(name)
    assert config.backbone.encoder is None and config.heads is None


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = make_start(tmp_path_factory.mktemp("recipes"))
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**sizes, patch_size=14, image_size=28, num_register_tokens=4)
    ).save_pretrained(folder / "registers")
    Preprocessing(image_size=28, mean=(0.5,) * 3, std=(0.25,) * 3).write(folder / "registers")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs_in_small(start, tmp_path, name):
    """Everything of the recipe but its sizes and lengths, for two steps."""
    config = _load(name)
    small_head = "{prototypes: 16, hidden_dim: 16, bottleneck_dim: 8}"
    encoder = "registers" if name == "cxr_vitb14_reg4_518" else "tiny"
    overrides = [
        f"output={tmp_path}",
        f"data.sources=[{{path: {start / 'images'}}}]",
        "data.cache_size=48",
        f"data.cache_folder={start / 'cache'}",
        "data.workers=0",
        f"backbone.encoder={start / encoder}",
        "crops.global_size=28",
        "crops.local_size=14",
        f"head={small_head}",
        "optimiser.batch_size=4",
        "schedule.epochs=2",
        "schedule.epoch_steps=1",
        "schedule.warmup_epochs=0",
        "stop_when_collapsed=false",
    ]
    if config.ibot_head is not None:
        overrides.append(f"ibot_head={small_head}")
    if config.high_resolution is not None:
        overrides.append(
            "high_resolution={epochs: 1, global_size: 42, local_size: 14, batch_size: 4}"
        )
    load_program().main(_load(name, *overrides))
    weights = encoder_weights(tmp_path)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert ("embeddings.register_tokens" in weights) == (encoder == "registers")
