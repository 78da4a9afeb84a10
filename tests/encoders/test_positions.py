import pytest
import torch
from torch.nn import functional as F

from llava_rad.encoders.positions import (
    check_position_interpolation,
    interpolate_positions,
    table_side,
)
from llava_rad.errors import ConfigError, WeightsError


@pytest.fixture
def table() -> torch.Tensor:
    """A 37 x 37 table, [1, 1370, 8]."""
    return torch.randn(1, 1 + 37 * 37, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("convention", ["size", "size_antialias", "scale_offset"])
def test_own_grid_returns_the_table_itself(table, convention):
    assert interpolate_positions(table, (37, 37), convention) is table


@pytest.mark.parametrize("convention", ["size", "size_antialias", "scale_offset"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(224, 224), (98, 98), (546, 546), (602, 602), (1092, 1092), (518, 392)],
)
def test_every_grid_gets_its_number_of_positions(table, convention, height, width):
    rows, columns = height // 14, width // 14
    resized = interpolate_positions(table, (rows, columns), convention)
    assert resized.shape == (1, 1 + rows * columns, 8)
    assert torch.equal(resized[:, 0], table[:, 0])


@pytest.mark.parametrize(("convention", "antialias"), [("size", False), ("size_antialias", True)])
@pytest.mark.parametrize("grid", [(39, 39), (43, 43), (37, 28), (7, 7)])
def test_exact_size_equals_torch_and_is_not_transposed(table, convention, antialias, grid):
    square = table[0, 1:].T.reshape(1, 8, 37, 37)
    expected = F.interpolate(square, size=grid, mode="bicubic", antialias=antialias)
    resized = interpolate_positions(table, grid, convention)[0, 1:].T.reshape(1, 8, *grid)
    torch.testing.assert_close(resized, expected, atol=1e-6, rtol=0)


def test_conventions_differ_away_from_the_own_grid(table):
    results = [
        interpolate_positions(table, (16, 16), convention)
        for convention in ("size", "size_antialias", "scale_offset")
    ]
    assert (results[0] - results[1]).abs().max() > 1e-2
    assert (results[0] - results[2]).abs().max() > 1e-3


def test_half_precision_is_interpolated_in_float32(table):
    half = table.bfloat16()
    expected = interpolate_positions(half.float(), (16, 16)).bfloat16()
    assert torch.equal(interpolate_positions(half, (16, 16)), expected)


def test_wrong_inputs_are_refused():
    with pytest.raises(ConfigError, match="scale_offset"):
        check_position_interpolation("nearest")
    with pytest.raises(WeightsError, match="260 patches is not square"):
        table_side(260)
