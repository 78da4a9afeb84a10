"""Plans of a pretraining against the true numbers of networks that are built."""

import json

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from llava_rad.cli import app
from llava_rad.config import from_dict
from llava_rad.dinov2.backbone import build_backbone
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.dinov2.plan import plan_pretraining
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.errors import ConfigError
from llava_rad.kernels.vit_layer import PatchMasks

SETTINGS = {
    "output": "runs/x",
    "data": {"cache_size": 64},
    "backbone": {"architecture": "vit_tiny", "image_size": 56},
    "crops": {"global_size": 56, "local_size": 28, "local_count": 2},
    "head": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16},
    "loss": {"mask_probability": 1.0, "mask_ratio": [0.5, 0.5]},
    "schedule": {"epochs": 4, "warmup_epochs": 1},
    "optimiser": {"batch_size": 4},
    "precision": "fp32",
}


def config(**changes):
    return from_dict(PretrainingConfig, {**SETTINGS, **changes})


@pytest.fixture(scope="module")
def true():
    """Operations of an image and bytes it keeps, in steps of a real network on 2 and 4 images."""
    settings = config()
    torch.manual_seed(0)
    model = StudentTeacher(
        build_backbone(settings.backbone, "plain"), settings.head, None, settings.loss
    ).train()
    found = []
    for batch in (2, 4):
        chosen = torch.zeros(2 * batch, 16, dtype=torch.bool)
        chosen[:, ::2] = True
        inputs = torch.randn(2 * batch, 1, 56, 56), torch.randn(2 * batch, 1, 28, 28)
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
            kept_for_backward() as kept,
        ):
            model(*inputs, PatchMasks.of(chosen), 0.04).total.backward()
        found.append(
            (counter.get_total_flops(), sum(storage_bytes(kept, model.parameters()).values()))
        )
    (few, kept_few), (more, kept_more) = found
    return model, (more - few) / 2, (kept_more - kept_few) / 2


def test_parameters_operations_and_memory_are_those_of_the_network(true):
    model, flops, kept = true
    found = plan_pretraining(config(), images=100)
    assert found.student == sum(p.numel() for p in model.student.parameters())
    # Attention that is written out has one product less, and keeps its squares.
    assert found.flops == pytest.approx(flops, rel=0.03)
    assert found.memory["activations"] * 1e9 / 4 == pytest.approx(kept, rel=0.15)


def test_gradient_checkpointing_keeps_less_and_computes_more():
    plain = plan_pretraining(config(), images=100)
    twice = plan_pretraining(config(gradient_checkpointing=True), images=100)
    assert twice.memory["activations"] < 0.35 * plain.memory["activations"]
    # The student's forward pass a second time: of about eight of them that a step has.
    assert 1.1 < twice.flops / plain.flops < 1.4


def test_what_is_split_is_counted_once():
    whole = plan_pretraining(config(), images=100, processes=4)
    split = plan_pretraining(config(sharding="fsdp2"), images=100, processes=4)
    for name in ("student and teacher", "gradients and optimiser"):
        assert split.memory[name] == pytest.approx(whole.memory[name] / 4)
    assert split.checkpoint_gb == whole.checkpoint_gb == 16 * whole.student / 1e9
    assert split.written_gb == pytest.approx(whole.written_gb / 4)
    copied = plan_pretraining(config(async_checkpoints=True), images=100, processes=4)
    assert copied.host_gb == copied.checkpoint_gb > 3 * whole.host_gb


def test_the_length_is_that_of_the_program():
    found = plan_pretraining(config(), images=100, processes=2)
    assert (found.effective_batch, found.steps) == (8, 4 * 13)
    assert found.cache_gb == 100 * 64 * 64 / 1e9
    faster = plan_pretraining(config(), images=100, processes=2, utilisation=0.58)
    assert found.hours == pytest.approx(2 * faster.hours)
    larger = {"epochs": 2, "global_size": 112, "local_size": 28, "batch_size": 4}
    assert plan_pretraining(config(high_resolution=larger), images=100, processes=2).hours > (
        1.5 * found.hours
    )


def test_what_cannot_be_planned_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="unknown GPU 'x'"):
        plan_pretraining(config(), images=1, gpu="x")
    with pytest.raises(ConfigError, match="configuration is not at hand"):
        plan_pretraining(config(backbone={"encoder": str(tmp_path / "none")}), images=1)


def test_the_command_plans_both_kinds(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(SETTINGS))
    done = CliRunner().invoke(app, ["plan", str(file), "--studies", "100", "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 100


def test_a_file_on_top_of_a_pretrainings_is_one_too(tmp_path):
    (tmp_path / "base.yaml").write_text(json.dumps(SETTINGS))
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nseed: 1\n")
    command = ["plan", str(tmp_path / "mine.yaml"), "--studies", "100", "--format", "json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 100
