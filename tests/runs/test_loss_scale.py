"""Loss scaling, beside torch's own scaler."""

import math

import pytest
import torch

from llava_rad.runs import loss_scale
from llava_rad.runs.loss_scale import LossScale

CPU = torch.device("cpu")
INF = float("inf")


def layer(value=1.0):
    parameter = torch.nn.Parameter(torch.full((3,), value))
    return parameter, torch.optim.AdamW([parameter], lr=0.1, fused=True)


def take(scale, parameter, optimiser, gradient):
    """A step whose gradient, before it is scaled, is the same number everywhere."""
    optimiser.zero_grad()
    scale.scaled((parameter * gradient).sum()).backward()
    scale.unscale([parameter])
    return scale.step(optimiser, parameter.grad.norm())


def test_scales_steps_and_weights_are_those_of_torchs_scaler(monkeypatch):
    monkeypatch.setattr(loss_scale, "_STEPS", 3)
    parameter, optimiser = layer()
    theirs, of_theirs = layer()
    own, scaler = LossScale(CPU), torch.amp.GradScaler("cpu", 2.0**16, growth_interval=3)
    for gradient in (1.0, INF, 2.0, float("nan"), 0.5, -1.0, 3.0, 1.0, 1.0, 1.0, 1.0, INF, 1.0):
        assert float(own.scaled(torch.tensor(1.0))) == scaler.get_scale()
        take(own, parameter, optimiser, gradient)
        of_theirs.zero_grad()
        scaler.scale((theirs * gradient).sum()).backward()
        scaler.step(of_theirs)
        scaler.update()
        torch.testing.assert_close(parameter, theirs)
    assert int(optimiser.state[parameter]["step"]) == 10


def test_a_skipped_step_changes_nothing_and_is_counted():
    parameter, optimiser = layer()
    scale = LossScale(CPU)
    figures = take(scale, parameter, optimiser, 2.0)
    assert float(figures["gradient"]) == pytest.approx(2 * 3**0.5)
    assert float(figures["skipped"]) == 0
    before = [parameter.detach().clone()]
    before += [value.clone() for value in optimiser.state[parameter].values()]
    for count in (1, 2):
        figures = take(scale, parameter, optimiser, INF)
        assert float(figures["gradient"]) == 0 and float(figures["skipped"]) == count
        assert float(figures["scale"]) == 2.0 ** (17 - count)
    after = [parameter.detach(), *optimiser.state[parameter].values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_gradient_that_no_scale_helps_is_shown_as_it_is():
    parameter, optimiser = layer()
    scale = LossScale(CPU)
    found = [float(take(scale, parameter, optimiser, INF)["gradient"]) for _ in range(31)]
    assert found[:30] == [0.0] * 30
    assert not math.isfinite(found[30])


def test_the_state_goes_on():
    first, second = LossScale(CPU), LossScale(CPU)
    parameter, optimiser = layer()
    for gradient in (1.0, INF, 1.0):
        take(first, parameter, optimiser, gradient)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert float(second.scaled(torch.tensor(1.0))) == 2.0**15
    assert {k: float(v) for k, v in second.state().items()} == {
        "scale": 2.0**15,
        "unbroken": 1.0,
        "skipped": 1.0,
    }
