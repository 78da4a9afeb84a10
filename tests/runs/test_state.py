"""Whole tensors out of models and optimisers, and back: what the two programs have in common."""

import pytest
import torch
from torch import nn

from llava_rad.errors import TrainingError
from llava_rad.runs.parts import SavedTensors, part_of, write_parts
from llava_rad.runs.state import (
    optimiser_tensors,
    plain_name,
    restore_optimiser,
    restore_tensors,
    whole_tensors,
)


class Wrapped(nn.Module):
    """Names parameters as data-parallel training does."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner


def network(fused=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)


def saved(file, tensors):
    """As the next run reads them."""
    write_parts({plain_name(name): part_of(tensor, True) for name, tensor in tensors.items()}, file)
    return SavedTensors([file])


def step(model, optimiser):
    model(torch.randn(5, 3, generator=torch.Generator().manual_seed(3))).pow(2).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
def test_training_goes_on_exactly_with_and_without_the_wrapper(fused, tmp_path):
    model, optimiser = network(fused)
    step(model, optimiser)
    tensors = saved(tmp_path / "weights", Wrapped(model).state_dict())
    state = saved(
        tmp_path / "state", optimiser_tensors(Wrapped(model).named_parameters(), optimiser)
    )
    assert tensors.keys() == model.state_dict().keys()  # running statistics too
    other, other_optimiser = network(fused)
    restore_tensors(other.state_dict().items(), tensors)
    restore_optimiser(other.named_parameters(), other_optimiser, state)
    for pair in ((model, optimiser), (other, other_optimiser)):
        step(*pair)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_what_is_not_kept_takes_no_memory():
    model, optimiser = network()
    step(model, optimiser)
    assert whole_tensors(model.state_dict().items(), keep=False) == {}


def test_another_model_is_refused(tmp_path):
    tensors = saved(tmp_path / "weights", network()[0].state_dict())
    for other in (
        nn.Sequential(nn.Linear(3, 4)),
        nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)),
    ):
        with pytest.raises(TrainingError, match="of another model"):
            restore_tensors(other.state_dict().items(), tensors)
    model, optimiser = network()
    with pytest.raises(TrainingError, match=r"it trains 7\.weight"):
        other = saved(tmp_path / "state", {"7.weight|exp_avg": torch.ones(1)})
        restore_optimiser(model.named_parameters(), optimiser, other)


def test_names_lose_the_wrapper_only():
    assert plain_name("student.module.backbone.modules_to_save.x") == (
        "student.backbone.modules_to_save.x"
    )
