"""Gradient checkpointing: less is kept, and nothing else changes."""

import copy

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from llava_rad.dinov2.backbone import prepare
from llava_rad.dinov2.config import HeadConfig, LossConfig
from llava_rad.dinov2.recomputed_layer import RecomputedLayer
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.kernels.vit_layer import PatchMasks

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 56,
    "layerscale_value": 1.0,
}


def backbone(recomputed, kernels="cpu", drop_path=0.4):
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SIZES))
    return prepare(model, drop_path, kernels, recomputed=recomputed).train()


def student_teacher(recomputed, kernels="cpu", compute_dtype=None):
    head = HeadConfig(prototypes=12, hidden_dim=16, bottleneck_dim=8)
    model = StudentTeacher(backbone(recomputed, kernels), head, None, LossConfig(), compute_dtype)
    return model.train()


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
def test_losses_and_gradients_are_equal(kernels, compute_dtype):
    masks = PatchMasks.of(torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) < 0.4)
    crops = torch.randn(8, 1, 56, 56, generator=torch.Generator().manual_seed(2))
    local_crops = torch.randn(3 * 4, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    found = []
    for recomputed in (False, True):
        model = student_teacher(recomputed, kernels, compute_dtype)
        torch.manual_seed(4)  # stochastic depth
        total = model(crops, local_crops, masks, 0.05).total
        torch.manual_seed(5)  # which the backward pass does not see
        total.backward()
        found.append((total, {name: p.grad for name, p in model.student.named_parameters()}))
    (expected, of_kept), (total, of_recomputed) = found
    assert torch.equal(total, expected)
    assert of_recomputed.keys() == of_kept.keys()
    for name, gradient in of_kept.items():
        assert torch.equal(of_recomputed[name], gradient), name


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
def test_what_enters_a_layer_is_all_that_is_kept_of_it(kernels):
    kept = []
    for recomputed in (False, True):
        model = backbone(recomputed, kernels, drop_path=0.0)
        images = torch.randn(16, 1, 56, 56)
        embedded = model.embeddings(images)
        with kept_for_backward() as tensors:
            for layer in model.encoder.layer:
                embedded = layer(embedded)
        kept.append(sum(storage_bytes(tensors, without=model.parameters()).values()))
    # Widths of a token: 10 a layer or more without (see kernels.lean_layer).
    assert kept[1] <= 4 * embedded.nbytes < kept[0] / 2


def test_names_and_the_teachers_copy_are_those_of_the_layers():
    plain, own = student_teacher(False), student_teacher(True)
    assert list(own.state_dict()) == list(plain.state_dict())
    layers = own.teacher.backbone.encoder.layer
    assert all(isinstance(layer, RecomputedLayer) for layer in layers)
    assert not layers[0].training and not layers[0]._layer[0].training
    with torch.no_grad():
        layers[0].mlp.fc1.weight.zero_()  # the copy computes with its own parameters
        tokens = torch.randn(2, 5, 48)
        student = own.student.backbone.encoder.layer[0].eval()
        assert not torch.equal(layers[0](tokens), student(tokens))


def test_a_layer_with_parameters_of_its_own_keeps_them():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.product = nn.Parameter(torch.tensor(3.0)), nn.Linear(4, 4)

        def forward(self, hidden, wanted=None):
            return hidden + self.scale * self.product(hidden)

    plain = Scaled()
    layer = RecomputedLayer(copy.deepcopy(plain)).train()
    assert list(layer.state_dict()) == list(plain.state_dict())
    hidden = torch.randn(2, 3, 4)
    for module in (plain, layer):
        module(hidden).square().sum().backward()
    for own, expected in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, expected.grad)
