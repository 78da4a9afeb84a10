"""The pretraining program, run whole on tiny images and a tiny vision transformer."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, Dinov2Config, Dinov2Model

from llava_rad.config import from_dict, save_config
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.encoders import Preprocessing, load_encoder
from llava_rad.errors import TrainingError

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "training" / "pretrain_encoder.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums come out the same here and in the processes started from here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("pretrain_encoder", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with images and a tiny encoder to start from."""
    folder = tmp_path_factory.mktemp("pretraining")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((70, 60), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:02}.png")
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=28,
            layerscale_value=0.5,
            drop_path_rate=0.2,
        )
    ).save_pretrained(folder / "tiny")
    Preprocessing(image_size=28, mean=(0.5,) * 3, std=(0.25,) * 3).write(folder / "tiny")
    return folder


def _config(start, output, **changes):
    values = {
        "output": str(output),
        "data": {
            "sources": [{"path": str(start / "images")}],
            "cache_size": 48,
            "workers": 0,
        },
        "backbone": {"encoder": str(start / "tiny"), "drop_path": 0.2},
        "crops": {"global_size": 28, "local_size": 14, "local_count": 2},
        "head": {"prototypes": 16, "hidden_dim": 16, "bottleneck_dim": 8},
        "schedule": {"epochs": 4, "warmup_epochs": 1, "temperature_epochs": 2},
        "optimiser": {"batch_size": 4, "layer_decay": 1.0},
        "precision": "fp32",
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


def _weights(output):
    return load_file(output / "encoder" / "model.safetensors")


def _assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def finished(program, start):
    output = start / "finished"
    program.main(_config(start, output))
    return output


def test_writes_an_encoder_that_both_libraries_load(finished):
    encoder = load_encoder(finished / "encoder")
    plain = AutoModel.from_pretrained(finished / "encoder").eval()
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        output = plain(pixels).last_hidden_state
        torch.testing.assert_close(encoder.encode(pixels).patches, output[:, 1:])
    assert plain.config.drop_path_rate == 0
    assert encoder.image_size == 28


def test_writes_the_training_sets_own_statistics(finished, start):
    preprocessing = Preprocessing.read(finished / "encoder")
    pixels = np.stack(
        [
            np.asarray(Image.open(path).resize((56, 48), Image.Resampling.BICUBIC))
            for path in sorted((start / "images").iterdir())
        ]
    )
    assert preprocessing.mean[0] == pytest.approx(pixels.mean() / 255, abs=0.02)
    assert preprocessing.std[0] == pytest.approx(pixels.std() / 255, abs=0.02)


def test_teacher_moved_and_metrics_are_logged(finished, start):
    before, after = load_file(start / "tiny" / "model.safetensors"), _weights(finished)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "total" in line]
    assert [line["step"] for line in losses] == list(range(1, 13))
    assert {"dino", "ibot", "koleo", "lr"} <= losses[0].keys()
    assert [line["step"] for line in lines if "effective_rank" in line] == [3, 6, 9, 12]


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_result(finished, start, tmp_path):
    output = tmp_path / "killed"
    save_config(_config(start, output), tmp_path / "config.yaml")
    command = [sys.executable, str(PROGRAM), "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (output / "checkpoints" / "step_00000006").exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (output / "encoder").exists()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    _assert_equal(_weights(output), _weights(finished))
    assert _losses(output) == _losses(finished)


def _losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["total"]) for line in lines if "total" in line]


def test_accumulation_sees_the_same_images(program, start, finished, tmp_path):
    accumulated = _config(
        start,
        tmp_path / "run",
        optimiser__batch_size=2,
        optimiser__accumulate=2,
        loss__koleo_weight=0.0,
    )
    program.main(accumulated)
    assert len(_losses(tmp_path / "run")) == 12


def test_high_resolution_phase_changes_the_crops_and_the_encoders_size(program, start, tmp_path):
    high = {"epochs": 1, "global_size": 42, "local_size": 14, "batch_size": 2, "accumulate": 2}
    program.main(_config(start, tmp_path / "run", high_resolution=high, schedule__epochs=2))
    assert load_encoder(tmp_path / "run" / "encoder").image_size == 42


@pytest.mark.parametrize("left_out", ["dino", "ibot", "koleo"])
def test_each_loss_may_be_left_out(program, start, tmp_path, left_out):
    changes = {f"loss__{left_out}_weight": 0.0, "schedule__epochs": 1, "schedule__warmup_epochs": 0}
    program.main(_config(start, tmp_path / "run", **changes))
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()


def test_centring_and_a_separate_patch_head(program, start, tmp_path):
    config = _config(
        start,
        tmp_path / "run",
        loss__targets="centring",
        ibot_head={"prototypes": 12, "hidden_dim": 16, "bottleneck_dim": 8},
        precision="bf16",
        crops__local_count=0,
        schedule__epochs=2,
    )
    program.main(config)
    heads = load_file(tmp_path / "run" / "encoder" / "ibot_head.safetensors")
    assert heads["last_layer.weight_v"].shape == (12, 8)


def test_batch_larger_than_the_set_ends_at_the_start(program, start, tmp_path):
    with pytest.raises(TrainingError, match="larger than the training set of 12"):
        program.main(_config(start, tmp_path / "run", optimiser__batch_size=16))


def test_run_that_is_not_finite_stops_and_says_so(program, start, tmp_path):
    with pytest.raises(TrainingError, match="loss is not finite") as caught:
        program.main(
            _config(
                start,
                tmp_path / "run",
                optimiser__base_lr=1e20,
                optimiser__clip=None,
                schedule__warmup_epochs=0,
                schedule__freeze_last_layer_epochs=0,
            )
        )
    assert "base_lr" in str(caught.value)
