"""Checkpoints: complete or not there, and refused where they belong to another run."""

import json

import pytest
import torch
from torch import nn

from llava_rad.errors import TrainingError
from llava_rad.report_training.state import (
    optimiser_state,
    restore_optimiser,
    restore_weights,
    trained_weights,
)
from llava_rad.runs import find_checkpoints, save_checkpoint
from llava_rad.runs.checkpoints import find_resumable
from llava_rad.runs.checks import check_changed, check_finite, sums_of

FACTS = {"config": {"seed": 0, "data": {"max_length": 9}}, "manifests": {"a.jsonl": "1"}}


def save(folder, step, stage="align", keep=2, **tensors):
    weights = {"w": torch.full((2,), float(step))} | tensors
    state = {"w|step": torch.ones(())}
    return save_checkpoint(folder, stage, step, weights, state, FACTS, keep=keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def resumable(folder, config=FACTS["config"], manifests=FACTS["manifests"], allowed=True):
    return find_resumable(folder, config, manifests, allowed=allowed)


def test_the_last_ones_are_kept_in_the_order_of_the_run(tmp_path):
    for step in (1, 20, 100):
        save(tmp_path, step)
    save(tmp_path, 1, "finetune")
    assert [(c.stage, c.step) for c in find_checkpoints(tmp_path)] == [
        ("align", 100),
        ("finetune", 1),
    ]
    assert names(tmp_path) == ["align-0000100", "finetune-0000001"]
    assert resumable(tmp_path).stage == "finetune"


def test_a_half_written_one_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    partial = tmp_path / ".align-0000002.partial"
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half")
    assert resumable(tmp_path).step == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["align-0000001", "align-0000002"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava_rad.runs.checkpoints.save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*start the same command"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["align-0000001"]


def test_what_reads_back_otherwise_is_no_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr("llava_rad.runs.checkpoints.load_file", lambda _: {"w": torch.zeros(2)})
    with pytest.raises(TrainingError, match="reads back otherwise"):
        save(tmp_path, 2)
    assert [c.step for c in find_checkpoints(tmp_path)] == [1]


def test_a_damaged_one_is_named(tmp_path):
    checkpoint = save(tmp_path, 1)
    (checkpoint.path / "weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(TrainingError, match=r"damaged.*Delete this folder"):
        checkpoint.tensors()
    (checkpoint.path / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        resumable(tmp_path)


def test_other_settings_or_studies_are_refused_by_name(tmp_path):
    assert resumable(tmp_path) is None
    save(tmp_path, 1)
    assert resumable(tmp_path).step == 1
    with pytest.raises(TrainingError, match="had another seed"):
        resumable(tmp_path, {**FACTS["config"], "seed": 1})
    with pytest.raises(TrainingError, match="content of the manifests"):
        resumable(tmp_path, manifests={"a.jsonl": "2"})
    with pytest.raises(TrainingError, match="checkpoints of an earlier run"):
        resumable(tmp_path, allowed=False)


def test_optimiser_and_weights_go_on_exactly(tmp_path):
    def network():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        model[0].bias.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        return model, torch.optim.AdamW(trained, lr=0.1)

    def steps(model, optimiser, numbers):
        for number in numbers:
            optimiser.zero_grad()
            model(torch.full((2, 3), float(number))).square().sum().backward()
            optimiser.step()

    whole, optimiser = network()
    steps(whole, optimiser, range(6))
    half, optimiser = network()
    steps(half, optimiser, range(3))
    saved = save_checkpoint(
        tmp_path, "align", 3, trained_weights(half), optimiser_state(half, optimiser), {}, keep=1
    )
    resumed, optimiser = network()
    weights, state = saved.tensors()
    restore_weights(resumed, weights)
    restore_optimiser(resumed, optimiser, state)
    steps(resumed, optimiser, range(3, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name

    other = nn.Linear(3, 2)
    with pytest.raises(TrainingError, match="another model"):
        restore_weights(other, weights)


def test_facts_are_given_back(tmp_path):
    assert save(tmp_path, 1).facts() == json.loads(json.dumps(FACTS))


def test_numbers_that_are_not_finite_name_the_studies():
    check_finite("loss", torch.tensor(1.0), 4, ["s1"])
    for bad in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match=r"step 4, studies s1, s2: the loss is (nan|inf)"):
            check_finite("loss", torch.tensor(bad), 4, ["s1", "s2"])


def test_a_model_that_did_not_change_is_refused():
    parameter = nn.Parameter(torch.tensor([1.0, -1.0]))
    before = sums_of([parameter])
    with pytest.raises(TrainingError, match="changed no weight"):
        check_changed(before, sums_of([parameter]))
    parameter.data[1] = -2.0
    check_changed(before, sums_of([parameter]))
