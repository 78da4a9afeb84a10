"""Several processes train as one does with the same batch: both stages, DDP and FSDP2."""

import subprocess
import sys

import pytest
import torch
from helpers.program_runs import environment
from helpers.training_runs import PROGRAM, metrics
from safetensors.torch import load_file

from llava_rad.model import ReportModel
from llava_rad.runs import find_checkpoints

# 20 steps a stage. LoRA dropout differs between processes, as it should, so it is off.
TWENTY_STEPS = [
    "lora={r: 4, alpha: 8, dropout: 0}",
    "align={epochs: 4.4, lr: 3e-3, batch_size: 4, micro_batch: 2}",
    "finetune={epochs: 4.4, lr: 3e-3, batch_size: 4, micro_batch: 2}",
]

pytestmark = pytest.mark.slow


def curve(folder):
    names = ("loss", "validation_loss")
    return [(r["stage"], r["step"], n, r[n]) for r in metrics(folder) for n in names if n in r]


@pytest.fixture(scope="module")
def one(train_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return train_in(folder, "run", *TWENTY_STEPS, "keep_checkpoints=99")[0]


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_learn_what_one_does(one, train, tmp_path, sharding):
    folder, said = train(
        "two",
        *TWENTY_STEPS,
        "keep_checkpoints=99",
        f"sharding={sharding}",
        f"data.cache_folder={tmp_path / 'features'}",
        "processes=2",
        processes=2,
    )
    found, expected = curve(folder), curve(one)
    # Rank 0 alone writes: there is one row of each kind.
    assert [point[:3] for point in found] == [point[:3] for point in expected]
    assert sum(name == "loss" for _, _, name, _ in found) == 40
    for point, (*_, value) in zip(found, expected, strict=True):
        assert point[3] == pytest.approx(value, abs=1e-5), point
    assert said.count("processes         2 on cpu") == 1
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 2

    for stage, file in (
        ("align", "adapter.safetensors"),
        ("finetune", "adapter.safetensors"),
        ("finetune", "lora/adapter_model.safetensors"),
    ):
        tensors, wanted = load_file(folder / stage / file), load_file(one / stage / file)
        assert tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.allclose(tensors[name], tensor, atol=1e-4), name
    ReportModel.from_pretrained(folder / "finetune")

    # Checkpoints hold what one process keeps; that of step 15 is made right after a validation.
    ours, theirs = (find_checkpoints(run / "checkpoints") for run in (folder, one))
    assert [(c.stage, c.step) for c in ours] == [(c.stage, c.step) for c in theirs]
    for saved, wanted in zip(ours, theirs, strict=True):
        for group in ("weights", "optimiser"):
            tensors, expected = saved.tensors(group), wanted.tensors(group)
            assert tensors.keys() == expected.keys(), saved
            for name in expected:
                assert torch.allclose(tensors[name], expected[name], atol=1e-4), name


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_a_run_goes_on_with_another_number_of_processes(one, train, sharding):
    """One process begins, two go on: order and optimiser do not depend on their number."""
    short = ["stage=align", "checkpoint_steps=7", *TWENTY_STEPS]
    folder, _ = train("run", *short, fails=False)
    for number in (14, 20):
        (folder / "checkpoints" / f"align-{number:07d}").rename(folder / f"gone-{number}")
    assert not list((folder / "checkpoints").iterdir())
    (folder / "gone-14").rename(folder / "checkpoints" / "align-0000014")
    said = train("run", *short, f"sharding={sharding}", processes=2)[1]
    assert "resuming          at step 14" in said
    for point, (*_, value) in zip(curve(folder), curve(one), strict=False):
        assert point[3] == pytest.approx(value, abs=1e-5), point


def test_all_weights_of_a_sharded_llm_are_saved(train):
    overrides = ["stage=finetune", "finetune.epochs=0.4", "lora=null"]
    one, _ = train("one", *overrides)
    two, _ = train("two", *overrides, "sharding=fsdp2", processes=2)
    expected = load_file(one / "finetune" / "llm" / "model.safetensors")
    found = load_file(two / "finetune" / "llm" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name


def test_torchrun_starts_two_and_tells(settings, tmp_path):
    """The launcher itself, once; the other tests give processes the environment it gives."""
    (tmp_path / "empty.yaml").touch()
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--nproc_per_node", "2"),
            *(str(PROGRAM), str(tmp_path / "empty.yaml")),
            *(f"output={tmp_path / 'run'}", *settings),
            *("stage=align", "align.epochs=0.2", "processes=2"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert "processes         2 on cpu" in launched.stdout
