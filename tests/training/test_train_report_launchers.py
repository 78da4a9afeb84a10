"""What splits the model besides the run's own FSDP2: a launcher's FSDP2, and DeepSpeed's ZeRO."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers.program_runs import environment, run_program
from helpers.training_runs import PROGRAM, metrics
from safetensors.torch import load_file

from llava_rad.runs import find_checkpoints

pytestmark = pytest.mark.slow
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install -e '.[deepspeed]'",
)

LAUNCHERS = Path(__file__).parents[2] / "configs" / "accelerate"
# 5 steps of two forward passes a process. LoRA dropout differs between processes, so it is off.
FIVE_STEPS = [
    "lora={r: 4, alpha: 8, dropout: 0}",
    "align={epochs: 1, lr: 3e-3, batch_size: 4, micro_batch: 1}",
    "finetune={epochs: 1, lr: 3e-3, batch_size: 4, micro_batch: 1}",
]
# On a CPU, DeepSpeed would first compile a kernel for sums in shared memory.
WITHOUT_KERNEL = f"""
import runpy
import deepspeed
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""


def curve(folder):
    names = ("loss", "validation_loss", "gradient_norm")
    return {
        (row["stage"], row["step"], name): row[name]
        for row in metrics(folder)
        for name in names
        if name in row
    }


def assert_same_curve(found, expected):
    assert found.keys() == expected.keys()
    for point, value in expected.items():
        assert found[point] == pytest.approx(value, abs=1e-5), point


@pytest.fixture(scope="module")
def one(train_in, tmp_path_factory):
    """One process."""
    return train_in(tmp_path_factory.mktemp("one"), "run", *FIVE_STEPS)[0]


@pytest.fixture
def train_zero(settings, tmp_path):
    """``train_zero(name, *overrides)``: two processes to the end."""
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_KERNEL)
    (tmp_path / "empty.yaml").touch()

    def run(name, *overrides):
        places = [str(tmp_path / "empty.yaml"), f"output={tmp_path / name}"]
        succeeded, said = run_program(
            program, [*places, *settings, *overrides], tmp_path / "log", processes=2
        )
        assert succeeded, said
        return tmp_path / name, said

    return run


@needs_deepspeed
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_two_processes_with_deepspeed_learn_what_one_does(one, train_zero, sharding):
    folder, said = train_zero("two", *FIVE_STEPS, f"sharding={sharding}")
    assert f"processes         2 on cpu, fp32, sharding {sharding}" in said
    assert_same_curve(curve(folder), curve(one))
    for stage, file in (
        ("align", "adapter.safetensors"),
        ("finetune", "adapter.safetensors"),
        ("finetune", "lora/adapter_model.safetensors"),
        ("finetune", "encoder/model.safetensors"),
    ):
        tensors, wanted = load_file(folder / stage / file), load_file(one / stage / file)
        assert tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.allclose(tensors[name], tensor, atol=1e-4), name
    # Checkpoints hold what one process keeps, whole: nothing that is frozen, nothing split.
    for found, expected in zip(
        find_checkpoints(folder / "checkpoints"), find_checkpoints(one / "checkpoints"), strict=True
    ):
        for group in ("weights", "optimiser"):
            ours, theirs = found.tensors(group), expected.tensors(group)
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@needs_deepspeed
@pytest.mark.parametrize(("before", "after"), [("zero2", "zero3"), ("zero3", "zero2")])
def test_a_run_goes_on_with_another_stage_of_zero(one, train_zero, before, after):
    """Weights and optimiser are gathered from one stage's parts and put into the other's."""
    short = ["stage=align", "checkpoint_steps=2", "keep_checkpoints=9", *FIVE_STEPS]
    folder, _ = train_zero("run", *short, f"sharding={before}")
    for number in (4, 5):
        path = folder / "checkpoints" / f"align-{number:07d}"
        path.rename(folder / path.name)
    said = train_zero("run", *short, f"sharding={after}")[1]
    assert "resuming          at step 2" in said
    expected = {point: value for point, value in curve(one).items() if point[0] == "align"}
    assert_same_curve(curve(folder), expected)


@needs_deepspeed
def test_all_weights_that_zero_3_splits_are_saved(train, train_zero):
    overrides = ["stage=finetune", "finetune.epochs=0.4", "lora=null"]
    one, _ = train("one", *overrides)
    two, _ = train_zero("two", *overrides, "sharding=zero3", "gradient_checkpointing=true")
    expected = load_file(one / "finetune" / "llm" / "model.safetensors")
    found = load_file(two / "finetune" / "llm" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name


def test_accelerate_launch_starts_fsdp2(settings, tmp_path):
    """The launcher itself, once: its FSDP2 is the run's own."""
    (tmp_path / "empty.yaml").touch()
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(LAUNCHERS / "fsdp2.yaml"), "--num_processes", "2"),
            *(str(PROGRAM), str(tmp_path / "empty.yaml")),
            *(f"output={tmp_path / 'run'}", *settings, "stage=align", "align.epochs=0.2"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert "processes         2 on cpu, fp32, sharding fsdp2" in launched.stdout
    assert (tmp_path / "run" / "align" / "adapter.safetensors").is_file()
