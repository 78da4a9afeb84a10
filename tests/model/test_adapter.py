import pytest
import torch
from torch import nn

from llava_rad.errors import ConfigError
from llava_rad.model import Adapter, AdapterConfig


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_is_linear_layers_with_gelu_between(layers):
    adapter = Adapter(AdapterConfig(layers=layers, hidden=10), 6, 8)
    kinds = [type(part) for part in adapter.layers]
    assert kinds == [nn.Linear, *[nn.GELU, nn.Linear] * (layers - 1)]
    x = torch.randn(2, 12, 6)
    expected = x
    for part in adapter.layers:
        expected = part(expected)
    assert torch.equal(adapter(x, (3, 4)), expected)
    assert expected.shape == (2, 12, 8)


def test_pooling_averages_squares_of_the_patch_grid():
    adapter = Adapter(AdapterConfig(layers=1, pool=2), 5, 5)
    adapter.layers[0].weight.data = torch.eye(5)
    adapter.layers[0].bias.data.zero_()
    patches = torch.randn(3, 24, 5)
    grid = patches.reshape(3, 4, 6, 5)
    wanted = torch.stack(
        [
            grid[:, i : i + 2, j : j + 2].mean((1, 2))
            for i in range(0, 4, 2)
            for j in range(0, 6, 2)
        ],
        1,
    )
    assert torch.allclose(adapter(patches, (4, 6)), wanted, atol=1e-6)
    assert adapter.config.tokens((4, 6)) == 6


def test_pooling_keeps_the_border_of_an_odd_grid():
    config = AdapterConfig(layers=1, pool=2)
    adapter = Adapter(config, 1, 1)
    adapter.layers[0].weight.data.fill_(1)
    adapter.layers[0].bias.data.zero_()
    patches = torch.arange(9.0).reshape(1, 9, 1)
    out = adapter(patches, (3, 3)).flatten().tolist()
    assert out == [2.0, 3.5, 6.5, 8.0]
    assert config.tokens((3, 3)) == 4
    assert config.tokens((37, 37)) == 361


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"layers": 5}, {"pool": 0}, {"hidden": 0}])
def test_refuses_shapes_that_do_not_exist(wrong):
    with pytest.raises(ConfigError, match=f"AdapterConfig: '{next(iter(wrong))}' must be"):
        AdapterConfig(**wrong)
