"""Schedules and optimiser groups against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig
from transformers import Dinov2WithRegistersModel as RegistersModel

from llava_rad.dinov2.config import HeadConfig, OptimiserConfig, ScheduleConfig
from llava_rad.dinov2.param_groups import apply_step_values, parameter_groups
from llava_rad.dinov2.schedules import Schedules, StepValues, scaled_lr
from llava_rad.dinov2.student_teacher import Network

SCHEDULE = ScheduleConfig(
    epochs=10,
    warmup_epochs=2,
    weight_decay=(0.04, 0.4),
    momentum=(0.99, 1.0),
    teacher_temperature=(0.04, 0.07),
    temperature_epochs=3,
    freeze_last_layer_epochs=1,
)


def _schedules(**changes):
    return Schedules(replace(SCHEDULE, **changes), peak_lr=2e-3, min_lr=1e-6, epoch_steps=10)


def _half_cosine(start, end, progress):
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def test_learning_rate_rises_linearly_and_falls_along_a_cosine():
    schedules = _schedules()
    assert schedules.steps == 100
    lr = [schedules.at(step).lr for step in range(100)]
    assert lr[0] == 0
    assert lr[19] == pytest.approx(2e-3)
    assert lr[5] == pytest.approx(2e-3 * 5 / 19)
    assert lr[60] == pytest.approx(_half_cosine(2e-3, 1e-6, 40 / 80))
    assert lr[99] == pytest.approx(_half_cosine(2e-3, 1e-6, 79 / 80))


def test_weight_decay_and_momentum_are_cosines_over_the_whole_run():
    values = _schedules().at(25)
    assert values.weight_decay == pytest.approx(_half_cosine(0.04, 0.4, 0.25))
    assert values.momentum == pytest.approx(_half_cosine(0.99, 1.0, 0.25))
    constant = _schedules(momentum=(0.999, 0.999), weight_decay=(0.0, 0.0)).at(70)
    assert (constant.momentum, constant.weight_decay) == (0.999, 0)


def test_teacher_temperature_rises_linearly_and_stays():
    temperatures = [_schedules().at(step).teacher_temperature for step in (0, 10, 29, 30, 99)]
    assert temperatures == pytest.approx([0.04, 0.04 + 0.03 * 10 / 29, 0.07, 0.07, 0.07])
    assert _schedules(temperature_epochs=0).at(0).teacher_temperature == 0.07


def test_prototypes_wait_for_the_first_epoch():
    schedules = _schedules()
    assert schedules.at(9).last_layer_lr == 0
    assert schedules.at(10).last_layer_lr == schedules.at(10).lr > 0


def test_backbone_waits_while_only_the_heads_train_and_then_warms_up_by_itself():
    schedules, plain = _schedules(heads_only_epochs=4), _schedules()
    assert all(schedules.at(step).backbone_lr == 0 for step in range(40))
    assert all(schedules.at(step).lr == plain.at(step).lr for step in range(100))
    assert schedules.at(45).backbone_lr == pytest.approx(2e-3 * 5 / 19)
    assert schedules.at(60).backbone_lr == pytest.approx(plain.at(60).lr)
    assert all(plain.at(step).backbone_lr == plain.at(step).lr for step in range(100))


def test_learning_rate_follows_the_effective_batch():
    config = OptimiserConfig(base_lr=4e-3)
    assert scaled_lr(config, 1024) == 4e-3
    assert scaled_lr(config, 256) == pytest.approx(2e-3)
    assert scaled_lr(replace(config, scaling="linear"), 256) == pytest.approx(1e-3)
    assert scaled_lr(replace(config, scaling="none"), 256) == 4e-3


@pytest.fixture(params=[0, 2], ids=["plain", "registers"])
def network(request):
    sizes = dict(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=1, mlp_ratio=2, image_size=28
    )
    if request.param:
        backbone = RegistersModel(Dinov2WithRegistersConfig(num_register_tokens=2, **sizes))
    else:
        backbone = Dinov2Model(Dinov2Config(**sizes))
    head = HeadConfig(prototypes=8, hidden_dim=8, bottleneck_dim=4)
    return Network(backbone, head, head)


def _groups(network, prefix=""):
    """Name of each parameter to the group it is in."""
    holder = torch.nn.ModuleDict({"module": network}) if prefix else network
    groups = parameter_groups(holder, layers=3, layer_decay=0.5, patch_embedding_lr=0.2)
    owners = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(owners)
    return {name: owners[id(parameter)] for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("prefix", ["", "module."], ids=["alone", "data-parallel"])
def test_each_layer_learns_at_its_own_pace(network, prefix):
    expected = {
        "embeddings.patch_embeddings.": 0.5**4 * 0.2,
        "embeddings.": 0.5**4,
        "encoder.layer.0.": 0.5**3,
        "encoder.layer.1.": 0.5**2,
        "encoder.layer.2.": 0.5,
        "layernorm.": 1.0,
    }
    for name, group in _groups(network, prefix).items():
        inner = name.removeprefix("backbone.")
        factor = next((f for start, f in expected.items() if inner.startswith(start)), None)
        assert group["is_backbone"] == (name != inner)
        assert group["lr_factor"] == pytest.approx(1.0 if factor is None else factor), name
        assert group["is_last_layer"] == (".last_layer." in name)


def test_matrices_and_tokens_decay_and_nothing_else(network):
    for name, group in _groups(network).items():
        plain = name.endswith("bias") or "norm" in name or "layer_scale" in name
        assert group["decays"] != plain, name


def test_no_layer_decay_gives_every_layer_the_full_rate(network):
    groups = parameter_groups(network, layers=3, layer_decay=1.0, patch_embedding_lr=1.0)
    assert {group["lr_factor"] for group in groups} == {1.0}


def test_a_step_moves_each_group_by_its_own_rate(network):
    groups = parameter_groups(network, layers=3, layer_decay=0.5, patch_embedding_lr=0.2)
    optimiser = torch.optim.SGD(groups, lr=1.0)
    apply_step_values(
        optimiser,
        StepValues(
            lr=0.1,
            last_layer_lr=0.0,
            backbone_lr=0.01,
            weight_decay=0.0,
            momentum=0.99,
            teacher_temperature=0.04,
        ),
    )
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()

    def moved(name):
        return (before[name] - network.get_parameter(name)).mean().item()

    assert moved("dino_head.mlp.0.weight") == pytest.approx(0.1, rel=1e-3)
    assert moved("dino_head.last_layer.weight_v") == 0
    assert moved("backbone.encoder.layer.2.mlp.fc1.weight") == pytest.approx(0.005, rel=1e-3)
    assert moved("backbone.embeddings.patch_embeddings.projection.weight") == pytest.approx(
        0.01 * 0.5**4 * 0.2, rel=1e-2
    )


def test_weight_decay_of_the_step_reaches_the_groups_that_decay(network):
    groups = parameter_groups(network, layers=3, layer_decay=1.0, patch_embedding_lr=1.0)
    optimiser = torch.optim.AdamW(groups)
    apply_step_values(optimiser, _schedules().at(50))
    for group in optimiser.param_groups:
        expected = _schedules().at(50).weight_decay if group["decays"] else 0
        assert group["weight_decay"] == expected
