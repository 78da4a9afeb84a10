"""Two processes do what one does with twice the batch, whole or split, and resume each other."""

import shutil

import pytest
import torch
from helpers.pretraining_runs import (
    PROGRAM,
    assert_equal,
    checkpoint,
    encoder_weights,
    load_program,
    losses,
    make_start,
    metrics,
    tiny_config,
)
from helpers.program_runs import run_program

from llava_rad.config import save_config
from llava_rad.data import Study, StudyImage, save_manifest

pytestmark = pytest.mark.slow

STEPS = 4
COMMON = {
    "backbone__drop_path": 0.0,  # the one source of randomness that depends on the process
    "optimiser__accumulate": 2,
    "optimiser__scaling": "none",
    "optimiser__base_lr": 1e-3,
    "schedule__epoch_steps": STEPS,
    "schedule__epochs": 1,
    "schedule__warmup_epochs": 0.25,
    "schedule__freeze_last_layer_epochs": 0,
    "schedule__momentum": [0.9, 0.9],
    "checkpoint_steps": 1,
    "keep_checkpoints": 9,
}
METHODS = {
    "sinkhorn": {"loss__targets": "sinkhorn"},
    "centring": {
        "loss__targets": "centring",
        "ibot_head": {"prototypes": 12, "hidden_dim": 16, "bottleneck_dim": 8},
    },
}
SHARDING = {"ddp": "none", "fsdp2": "fsdp2"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = make_start(tmp_path_factory.mktemp("processes"))
    studies = [
        Study(
            study_id=path.stem,
            patient_id=path.stem,
            split="validation" if number >= 7 else "train",
            images=(StudyImage(str(path)),),
            sex="MF"[number % 2],
            age=30.0 + number,
        )
        # An odd number, which two processes cannot share evenly.
        for number, path in enumerate(sorted((folder / "images").iterdir())[:11])
    ]
    save_manifest(studies, folder / "labels.jsonl")
    return folder


def _settings(start, name, method, processes=1, **changes):
    return tiny_config(
        start,
        start / name,
        optimiser__batch_size=4 // processes,
        probe={"manifest": str(start / "labels.jsonl"), "targets": ["sex", "age"]},
        **(COMMON | METHODS[method] | changes),
    )


@pytest.fixture(scope="module")
def one(start):
    """One process, with both kinds of targets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    program = load_program()
    for method in METHODS:
        program.main(_settings(start, f"one-{method}", method))
    torch.set_num_threads(threads)
    return lambda method: start / f"one-{method}"


def _on_two(start, name, method, sharding, **changes):
    settings = _settings(start, name, method, processes=2, sharding=SHARDING[sharding], **changes)
    save_config(settings, start / f"{name}.yaml")
    succeeded, said = run_program(
        PROGRAM, [str(start / f"{name}.yaml")], start / f"{name}.log", processes=2
    )
    assert succeeded, said
    assert "processes         2 on cpu" in said
    assert ("split over them" in said) == (sharding == "fsdp2")
    return start / name


def _assert_same_run(first, second):
    torch.testing.assert_close(losses(second), losses(first), atol=1e-5, rtol=1e-5)
    assert_equal(checkpoint(first, STEPS), checkpoint(second, STEPS), tolerance=1e-5)
    assert_equal(encoder_weights(first), encoder_weights(second), tolerance=1e-5)
    for own, other in zip(metrics(first), metrics(second), strict=True):
        assert other == pytest.approx(own, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharding", SHARDING)
def test_two_processes_equal_one_with_twice_the_batch(start, one, method, sharding):
    # Gradient checkpointing, which changes no number, goes with one of the methods.
    recomputed = method == "centring"
    two = _on_two(
        start, f"{sharding}-{method}", method, sharding, gradient_checkpointing=recomputed
    )
    _assert_same_run(one(method), two)
    moved = checkpoint(two, STEPS)["teacher.backbone.encoder.layer.0.mlp.fc1.weight"]
    before = checkpoint(two, 1)["teacher.backbone.encoder.layer.0.mlp.fc1.weight"]
    assert (moved - before).abs().max() > 1e-4  # far more than the tolerance


@pytest.mark.parametrize("sharding", SHARDING)
def test_two_processes_go_on_from_what_one_saved_and_one_from_what_two_saved(start, one, sharding):
    whole = one("centring")
    there, back = start / f"{sharding}-there", start / f"{sharding}-back"
    _copy_until(whole, there, step=2)
    _on_two(start, there.name, "centring", sharding)
    _assert_same_run(whole, there)

    _copy_until(there, back, step=3)
    load_program().main(_settings(start, back.name, "centring"))
    _assert_same_run(whole, back)


def _copy_until(run, copy, step):
    """What a run leaves that was stopped right after it saved ``step``."""
    name = f"pretrain-{step:07d}"
    shutil.copytree(run / "checkpoints" / name, copy / "checkpoints" / name)
    shutil.copy(run / "metrics.jsonl", copy)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_split_networks_compute_in_half_precision_too(start, precision):
    both = {"precision": precision}
    if precision == "fp16":  # its first steps look for a scale
        both |= {"schedule__epochs": 5, "checkpoint_steps": 5}
    split = _settings(start, precision, "sinkhorn", 2, sharding="fsdp2", **both)
    save_config(split, start / f"{precision}.yaml")
    succeeded, said = run_program(
        PROGRAM, [str(start / f"{precision}.yaml")], start / f"{precision}.log", processes=2
    )
    assert succeeded, said
    load_program().main(_settings(start, f"{precision}-one", "sinkhorn", **both))
    first, second = losses(start / f"{precision}-one"), losses(start / precision)
    torch.testing.assert_close(second[0], first[0], rtol=0.02, atol=0.02)
    weights = checkpoint(start / precision, int(second[-1, 0]))
    assert all(t.dtype == torch.float32 for t in weights.values())
    if precision == "fp16":
        one, two = (
            [row for row in metrics(start / name) if "scale" in row]
            for name in (f"{precision}-one", precision)
        )
        # The loss of each process is the mean of half the batch: its gradients are twice as large.
        assert one[-1]["scale"] / two[-1]["scale"] in (1, 2)
        assert two[-1]["skipped"] - one[-1]["skipped"] in (0, 1)
        assert two[-1]["skipped"] < len(two)
        assert two[-1]["gradient"] > 0
