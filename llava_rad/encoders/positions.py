"""Position tables of vision transformers at other grids than they were trained at.

Two families of public checkpoints interpolate differently, and tokens differ with it, so the way
is a named setting that travels with the weights:

- ``size``: to the exact grid; transformers' DINOv2.
- ``size_antialias``: the same with antialiasing; transformers' DINOv2 with registers, and the
  original repository's published models with registers.
- ``scale_offset``: by the scale factor (side + 0.1) / table side; the original repository's code
  as it comes, and its published models without registers.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_rad.errors import ConfigError, WeightsError

PositionInterpolation = Literal["size", "size_antialias", "scale_offset"]

# Keeps the floor of side * scale from falling one short of the grid.
_SCALE_OFFSET = 0.1


def check_position_interpolation(value: object) -> PositionInterpolation:
    """Return the value, or raise :class:`ConfigError` if it is not one of the three names."""
    for name in get_args(PositionInterpolation):
        if value == name:
            return name
    raise ConfigError(
        f"position_interpolation is {value!r}",
        remedy=f"Use one of {', '.join(get_args(PositionInterpolation))}",
    )


def table_side(positions: int) -> int:
    """Side of a square table with that many positions, CLS not counted.

    Raises:
        WeightsError: the number is not a square.
    """
    side = round(positions**0.5)
    if side * side != positions:
        raise WeightsError(
            f"a position table of {positions} patches is not square",
            remedy="Use weights trained on square images",
            kind="position_table",
        )
    return side


def interpolate_positions(
    table: Tensor,
    grid: tuple[int, int],
    convention: PositionInterpolation = "size",
) -> Tensor:
    """Fit a position table to a grid of patches.

    Args:
        table: CLS position first, then a square of patch positions, [1, 1 + side * side, dim].
        grid: rows and columns wanted.
        convention: see the module.

    Returns:
        [1, 1 + rows * columns, dim]; the table itself where the grid is its own. Computed in
        float32 and returned in the table's dtype.
    """
    side = table_side(table.shape[1] - 1)
    if grid == (side, side):
        return table
    rows, columns = grid
    patches = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if convention == "scale_offset":
        scale = ((rows + _SCALE_OFFSET) / side, (columns + _SCALE_OFFSET) / side)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
    else:
        antialias = convention == "size_antialias"
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=antialias)
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :1], patches], dim=1)
