"""The adapter: patch tokens of the encoder in, embeddings for the LLM out."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from llava_rad.config import Count, Range, check_ranges


@dataclass(frozen=True)
class AdapterConfig:
    """Shape of the adapter.

    Attributes:
        layers: number of linear layers, 1 to 4, with GELU between them. 1 is a plain linear map
            (LLaVA), 2 is LLaVA 1.5 and RAD-DINO's report model, 4 is MAIRA.
        hidden: width between the layers; None means the width of the LLM.
        pool: side of the squares of patches averaged before the layers; 1 keeps every patch,
            2 leaves a quarter of them.
    """

    layers: Annotated[int, Range(1, 4)] = 2
    hidden: Count | None = None
    pool: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)

    def tokens(self, grid: tuple[int, int]) -> int:
        """Embeddings made from one image whose patches lie on ``grid`` (rows, columns)."""
        return -(-grid[0] // self.pool) * -(-grid[1] // self.pool)

    def on_patches(self, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """Values of an image's embeddings where their patches are: inverse of the pooling.

        Args:
            values: [..., tokens].
            grid: (rows, columns) of the patches.

        Returns:
            [..., rows, columns]; the patches that were averaged have the value of their embedding.
        """
        rows, columns = (-(-side // self.pool) for side in grid)
        square = values.unflatten(-1, (rows, columns))
        for dim in (-2, -1):
            square = square.repeat_interleave(self.pool, dim=dim)
        return square[..., : grid[0], : grid[1]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Adapter(nn.Module):
    """An MLP with GELU over each (optionally pooled) patch token.

    Args:
        config: layers and pooling.
        encoder_dim: width of the patch tokens.
        llm_dim: width of the LLM's input embeddings.
    """

    def __init__(self, config: AdapterConfig, encoder_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden or llm_dim
        widths = [encoder_dim, *[hidden] * (config.layers - 1), llm_dim]
        parts: list[nn.Module] = []
        for i in range(config.layers):
            if i:
                parts.append(nn.GELU())
            parts.append(nn.Linear(widths[i], widths[i + 1]))
        self.layers = nn.Sequential(*parts)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map patch tokens to LLM embeddings.

        Args:
            patches: [images, rows * columns, encoder_dim], row by row.
            grid: (rows, columns) of the patches.

        Returns:
            [images, tokens, llm_dim] with ``config.tokens(grid)`` tokens. A grid that ``pool``
            does not divide keeps its border: the last squares average the patches they have.
        """
        if self.config.pool > 1:
            n, _, d = patches.shape
            square = patches.transpose(1, 2).reshape(n, d, *grid)
            square = torch.nn.functional.avg_pool2d(
                square, self.config.pool, ceil_mode=True, count_include_pad=False
            )
            patches = square.flatten(2).transpose(1, 2)
        return self.layers(patches.to(next(self.parameters()).dtype))
