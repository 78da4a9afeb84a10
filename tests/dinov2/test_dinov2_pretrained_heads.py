"""Projection heads that were trained before, in the layouts in which they are published."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from llava_rad.dinov2.config import HeadConfig
from llava_rad.dinov2.pretrained_heads import load_heads
from llava_rad.dinov2.student_teacher import Network
from llava_rad.errors import WeightsError

HEAD = HeadConfig(prototypes=10, hidden_dim=8, bottleneck_dim=4)
PATCH_HEAD = HeadConfig(prototypes=6, hidden_dim=8, bottleneck_dim=4)


def _network(seed, ibot_head=None, head=HEAD):
    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28)
    return Network(Dinov2Model(config), head, ibot_head)


def _state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _assert_equal(module, state):
    assert module.state_dict().keys() == state.keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


LAYOUTS = {
    "published": dict,
    "prefixed": lambda state: {f"dino_head.{k}": v for k, v in state.items()},
    "new weight norm": lambda state: {
        k.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for k, v in state.items()
    },
    "training checkpoint": lambda state: {
        f"{side}.dino_head.{k}": v if side == "teacher" else v + 1
        for side in ("student", "teacher")
        for k, v in state.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_fills_the_head(tmp_path, layout):
    trained, network = _network(0), _network(1)
    before = _state(network.backbone)
    save_file(LAYOUTS[layout](_state(trained.dino_head)), tmp_path / "dino_head.safetensors")
    assert load_heads(network, tmp_path / "dino_head.safetensors") == ["dino_head"]
    _assert_equal(network.dino_head, trained.dino_head.state_dict())
    _assert_equal(network.backbone, before)


def test_a_checkpoint_of_the_repository_holds_both_heads(tmp_path):
    trained, network = _network(0, PATCH_HEAD), _network(1, PATCH_HEAD)
    state = {f"backbone.{k}": v for k, v in _state(trained.backbone).items()}
    for name in ("dino_head", "ibot_head"):
        state |= {f"{name}.{k}": v for k, v in _state(getattr(trained, name)).items()}
    torch.save({"teacher": state}, tmp_path / "teacher_checkpoint.pth")
    assert load_heads(network, tmp_path / "teacher_checkpoint.pth") == ["dino_head", "ibot_head"]
    _assert_equal(network.dino_head, trained.dino_head.state_dict())
    _assert_equal(network.ibot_head, trained.ibot_head.state_dict())


def test_an_encoder_folder_gives_the_heads_it_has(tmp_path):
    trained, network = _network(0, PATCH_HEAD), _network(1, PATCH_HEAD)
    save_file(_state(trained.dino_head), tmp_path / "dino_head.safetensors")
    new = _state(network.ibot_head)
    assert load_heads(network, tmp_path) == ["dino_head"]
    _assert_equal(network.ibot_head, new)
    save_file(_state(trained.ibot_head), tmp_path / "ibot_head.safetensors")
    assert load_heads(network, tmp_path) == ["dino_head", "ibot_head"]
    _assert_equal(network.ibot_head, trained.ibot_head.state_dict())


def test_another_size_is_refused_with_both_sizes_and_the_setting(tmp_path):
    save_file(_state(_network(0).dino_head), tmp_path / "dino_head.safetensors")
    other = _network(1, head=HeadConfig(prototypes=12, hidden_dim=8, bottleneck_dim=4))
    with pytest.raises(WeightsError, match=r"weight_v \[10, 4\] against \[12, 4\].*Set head to"):
        load_heads(other, tmp_path / "dino_head.safetensors")


def test_a_part_of_a_head_is_refused(tmp_path):
    state = _state(_network(0).dino_head)
    del state["mlp.2.bias"]
    save_file(state, tmp_path / "dino_head.safetensors")
    with pytest.raises(WeightsError, match=r"missing 1 \(mlp\.2\.bias\)"):
        load_heads(_network(1), tmp_path / "dino_head.safetensors")


def test_a_file_without_head_is_refused(tmp_path):
    save_file({"blocks.0.norm1.weight": torch.ones(2)}, tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match="no DINO head"):
        load_heads(_network(1), tmp_path / "backbone.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no DINO head"):
        load_heads(_network(1), tmp_path / "empty")


def test_head_of_the_original_code_gives_its_output(shared_parity, tmp_path):
    reference = load_file(shared_parity / "dinov2_losses.safetensors")
    head = {k.removeprefix("head."): v for k, v in reference.items() if k.startswith("head.")}
    save_file(head, tmp_path / "dino_head.safetensors")
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=1, image_size=28)
    network = Network(Dinov2Model(config), HeadConfig(32, 40, 16, 3), None)
    load_heads(network, tmp_path / "dino_head.safetensors")
    output = network.dino_head(reference["head_io.x"])
    torch.testing.assert_close(output, reference["head_io.y"], atol=1e-5, rtol=1e-5)
