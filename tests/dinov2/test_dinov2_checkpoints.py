"""Checkpoints are whole or not there, and fit the run that reads them."""

import pytest
import torch

from llava_rad.dinov2 import checkpoints as module
from llava_rad.dinov2.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from llava_rad.errors import TrainingError

SETTINGS = {"seed": 0, "schedule": {"epochs": 3, "momentum": (0.99, 1.0)}}


def _model(width=4):
    torch.manual_seed(width)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimiser


def _step(model, optimiser):
    model(torch.randn(5, 3, generator=torch.Generator().manual_seed(3))).pow(2).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def _save(folder, step, model, optimiser, keep=2, **changes):
    return save_checkpoint(
        folder,
        step,
        model,
        optimiser,
        {"moments": torch.tensor([1.0, 2.0])},
        {**SETTINGS, **changes},
        keep=keep,
        writes=True,
    )


def test_training_goes_on_exactly(tmp_path):
    model, optimiser = _model()
    _step(model, optimiser)
    path = _save(tmp_path, 1, model, optimiser)
    other, other_optimiser = _model()
    step, watch = load_checkpoint(path, other, other_optimiser, SETTINGS)
    assert step == 1
    assert watch["moments"].tolist() == [1, 2]
    for pair in ((model, optimiser), (other, other_optimiser)):
        _step(*pair)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 30):
        _save(tmp_path, step, *_model())
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002", "step_00000030"]


def test_a_kill_while_writing_leaves_the_older_ones(tmp_path, monkeypatch):
    _save(tmp_path, 1, *_model())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 2, *_model())
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000001"]
    monkeypatch.undo()
    _save(tmp_path, 2, *_model())
    assert len(checkpoints(tmp_path)) == 2
    assert not list(tmp_path.glob(".partial*"))


def test_other_settings_are_refused_by_name(tmp_path):
    model, optimiser = _model()
    path = _save(tmp_path, 1, model, optimiser)
    changed = {"seed": 1, "schedule": {"epochs": 3, "momentum": (0.98, 1.0)}}
    with pytest.raises(TrainingError, match="other settings") as caught:
        load_checkpoint(path, model, optimiser, changed)
    assert "seed 0 against 1" in str(caught.value)
    assert "schedule.momentum [0.99, 1.0] against [0.98, 1.0]" in str(caught.value)
    assert "epochs" not in str(caught.value)


def test_another_model_is_refused(tmp_path):
    path = _save(tmp_path, 1, *_model())
    model = torch.nn.Sequential(torch.nn.Linear(3, 4))
    with pytest.raises(TrainingError, match="of another model"):
        load_checkpoint(path, model, torch.optim.AdamW(model.parameters()), SETTINGS)
