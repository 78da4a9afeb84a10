"""Whether an image is like those that a model was trained on, by the distance of its features.

The patch tokens of an image are averaged in a grid of 4 x 4 cells, so that the features know their
place: an upside-down film is as strange as a photograph. A probabilistic PCA (Tipping and Bishop,
1999) of the training images' features is their density: a Gaussian with 64 free directions, and one
variance for all others. An image's distance is the squared Mahalanobis distance under it divided by
the number of features: about 1 for training images.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llava_rad.saved_heads import load_head, save_head

FILE = "training_summary.safetensors"
CELLS = 4  # along each side
COMPONENTS = 64
_SMALLEST = 1e-12  # of a variance
_MARK = "training_summary"


@dataclass(frozen=True, eq=False)
class TrainingSummary:
    """The density of the training images' features, and how far is too far.

    Attributes:
        mean: of each cell, float32 [cells, dim].
        components: directions of largest variance, float32 [components, cells * dim].
        variances: along them, float32 [components].
        rest: variance along every other direction, float32 [1].
        threshold: the distance above which an image is called unlike the training images.
        facts: what it belongs to and how it was made, all of it JSON.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    rest: Tensor
    threshold: float
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, cells: Tensor) -> "TrainingSummary":
        """Summarise training images; the threshold is the farthest of them until one is chosen.

        Args:
            cells: from :func:`cell_means`, [images, cells, dim]; at least two images.
        """
        mean = cells.double().mean(dim=0)
        features = (cells.double() - mean).flatten(1)  # [images, features]
        images, size = features.shape
        kept = min(COMPONENTS, min(images, size) // 2)
        # The images are fewer than a covariance of the features would have rows.
        values, vectors = torch.linalg.eigh(features @ features.T / images)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        variances = values[:kept].clamp(min=_SMALLEST)
        components = (features.T @ vectors[:, :kept]).T / (images * variances).sqrt()[:, None]
        rest = (values[kept:].sum() / max(1, size - kept)).clamp(min=_SMALLEST).reshape(1)
        summary = cls(mean.float(), components.float(), variances.float(), rest.float(), 0.0)
        return replace(summary, threshold=float(summary.distance(cells).max()))

    def distance(self, cells: Tensor) -> Tensor:
        """How far images are: float32 [images], about 1 for those of the training.

        Args:
            cells: from :func:`cell_means`, [images, cells, dim].
        """
        features = (cells.float().cpu() - self.mean).flatten(1)
        along = features @ self.components.T
        beside = features.square().sum(dim=1) - along.square().sum(dim=1)
        total = (along.square() / self.variances).sum(dim=1) + beside.clamp(min=0) / self.rest
        return total / features.shape[1]

    def save(self, file: Path) -> None:
        """Write a safetensors file that :func:`load_training_summary` reads back."""
        about = {"threshold": self.threshold, "facts": self.facts}
        names = ("mean", "components", "variances", "rest")
        tensors = {name: getattr(self, name) for name in names}
        save_head(file, _MARK, tensors, about)


def load_training_summary(file: Path) -> TrainingSummary:
    """Read what :meth:`TrainingSummary.save` wrote.

    Raises:
        WeightsError: the file is no such summary, or damaged.
    """

    def make(tensors: dict[str, Tensor], about: dict[str, Any]) -> TrainingSummary:
        summary = TrainingSummary(
            **tensors, threshold=float(about["threshold"]), facts=dict(about["facts"])
        )
        kept, dim = len(summary.variances), summary.mean.shape[-1]
        shapes = (summary.mean.shape, summary.components.shape, summary.rest.shape)
        if shapes != ((CELLS**2, dim), (kept, CELLS**2 * dim), (1,)):
            raise ValueError("its tensors have other shapes")
        return summary

    return load_head(
        file,
        _MARK,
        make,
        what="summary of training images",
        remedy="Make it anew with training/train_observations.py, or remove the file",
        kind="no_summary",
    )


def cell_means(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of the patch tokens in a grid of cells.

    Args:
        patches: [images, rows * columns, dim].
        grid: rows and columns of the tokens.

    Returns:
        float32 [images, CELLS ** 2, dim], row by row.
    """
    maps = patches.float().transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(maps, CELLS).flatten(2).transpose(1, 2)
