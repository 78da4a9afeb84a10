"""Both training programs on a GPU, for three steps on tiny models."""

import importlib.util

import pytest
import torch
from helpers.pretraining_runs import load_program, make_start, tiny_config
from helpers.pretraining_runs import losses as pretraining_losses
from helpers.training_parts import make_parts
from helpers.training_runs import PROGRAM, metrics

from llava_rad.config import load_config
from llava_rad.report_training import imitation
from llava_rad.report_training.config import ReportTrainingConfig

pytestmark = pytest.mark.gpu


def forbid_waiting(monkeypatch, program, name):
    """Let a step of a program fail where the host waits for the GPU; the first one prepares."""
    step, taken = getattr(program, name), []

    def watched(*args, **options):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if taken else "default")
        try:
            return step(*args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            taken.append(name)

    monkeypatch.setattr(program, name, watched)
    return taken


@pytest.fixture(scope="module")
def report_program():
    spec = importlib.util.spec_from_file_location("train_report", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "changes",
    [
        [],
        pytest.param(["kernels=plain", "compile=true"], marks=pytest.mark.compiles),
        ["data.cache_features=false", "data.workers=1", "gradient_checkpointing=true"],
    ],
    ids=["default", "compiled", "images"],
)
def test_report_training(gpu, tmp_path, monkeypatch, report_program, changes):
    make_parts(tmp_path)
    taken = forbid_waiting(monkeypatch, imitation, "take_step")
    stage = "{batch_size: 6, micro_batch: 3, lr: 1e-3, epochs: 1}"
    config = load_config(
        ReportTrainingConfig,
        None,
        [
            f"output={tmp_path}/run",
            f"encoder={tmp_path}/encoder",
            f"llm={tmp_path}/llm",
            f"data.sources=[{tmp_path}/studies.jsonl]",
            "lora={r: 2, alpha: 4}",
            "stage=finetune",
            f"finetune={stage}",
            "log_steps=1",
            "trackers=[]",
            *changes,
        ],
    )
    report_program.main(config)
    assert len(taken) == 3
    found = [row["loss"] for row in metrics(tmp_path / "run") if "loss" in row]
    assert len(found) == 3 and all(torch.isfinite(torch.tensor(found)))
    assert (tmp_path / "run" / "finetune" / "config.json").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"compile": True, "kernels": "plain"}, marks=pytest.mark.compiles),
        {"precision": "bf16", "loss__targets": "centring"},
    ],
    ids=["default", "compiled", "bf16"],
)
def test_pretraining(gpu, tmp_path, monkeypatch, changes):
    make_start(tmp_path)
    program = load_program()
    taken = forbid_waiting(monkeypatch, program, "train_step")
    config = tiny_config(
        tmp_path,
        tmp_path / "run",
        schedule={"epochs": 1, "warmup_epochs": 0.5, "temperature_epochs": 1},
        trackers=[],
        **changes,
    )
    program.main(config)
    assert len(taken) == 3
    assert torch.isfinite(pretraining_losses(tmp_path / "run")).all()
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()
