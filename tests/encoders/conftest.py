"""Tiny encoders with random weights, made once."""

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from llava_rad.encoders import Preprocessing

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
}


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture
def randomise():
    """Makes every parameter matter: libraries start many at zero or one."""
    return _randomise


@pytest.fixture
def dinov2() -> Dinov2Model:
    return _randomise(Dinov2Model(Dinov2Config(**SIZES)))


@pytest.fixture
def dinov2_registers() -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)
    return _randomise(Dinov2WithRegistersModel(config))


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(image_size=56, mean=(0.5307,) * 3, std=(0.2583,) * 3)


@pytest.fixture
def pixels() -> torch.Tensor:
    """[2, 3, 56, 56]."""
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def image() -> np.ndarray:
    """A film wider than high, uint8 [61, 97]."""
    return np.random.default_rng(0).integers(0, 256, (61, 97), dtype=np.uint8)
