"""Attentive probes: for each observation one learnt query that pools an image's patch tokens.

A linear layer on CLS or on the mean of the patches cannot find what fills a few patches, such as a
nodule. Encoders are therefore also judged with pooling that is learnt with the layer, as V-JEPA
(arXiv:2404.08471) and CheXFound (arXiv:2502.05142) do. Here it is as small as it can be: the query
attends to standardised tokens themselves, and the layer reads their weighted mean, so that an
observation takes two vectors and a bias.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llava_rad.errors import DataError
from llava_rad.probing.scores import Floats, mean_auroc
from llava_rad.saved_heads import load_head, save_head

# Settings that are fitted together and chosen between: learning rate and weight decay.
GRID = tuple((rate, decay) for rate in (3e-3, 1e-2, 3e-2) for decay in (0.03, 0.3, 3.0))
EPOCHS = 60
BATCH = 64
_SMALLEST = 1e-6  # of a standard deviation

#: Patch tokens of images by their places in a split, float32 [images, tokens, dim].
ReadTokens = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class AttentiveProbe:
    """A query and a linear layer for each label.

    Attributes:
        names: of the labels.
        mean, scale: of the training images' tokens, [dim] each.
        query: for standardised tokens, [labels, dim].
        weight: for their weighted mean, [labels, dim].
        bias: [labels].
        facts: what it belongs to and how it was made, all of it JSON.
    """

    names: tuple[str, ...]
    mean: Tensor
    scale: Tensor
    query: Tensor
    weight: Tensor
    bias: Tensor
    facts: dict[str, Any] = field(default_factory=dict)

    def attention(self, tokens: Tensor) -> Tensor:
        """Where each label's query looks: shares of 1, [images, labels, tokens].

        Args:
            tokens: of the encoder the probe was fitted to, [images, tokens, dim].
        """
        return _attention((tokens - self.mean) / self.scale, self.query)

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits of the labels, [images, labels]; arguments as for :meth:`attention`."""
        tokens = (tokens - self.mean) / self.scale
        return _outputs(tokens, self.query, self.weight, self.bias)

    def predict(self, read: ReadTokens, images: int) -> Floats:
        """Probabilities of the labels, [images, labels]."""
        rows = [
            self.logits(read(places.tolist())).sigmoid()
            for places in torch.arange(images).split(BATCH)
        ]
        return torch.cat(rows).double().numpy()

    def with_facts(self, **facts: object) -> "AttentiveProbe":
        """The probe with further facts, such as the encoder it belongs to."""
        return replace(self, facts={**self.facts, **facts})

    def save(self, path: Path) -> None:
        """Write ``path``, a safetensors file that :func:`load_attentive_probe` reads back."""
        about = {"names": list(self.names), "facts": self.facts}
        save_head(path, _MARK, {name: getattr(self, name) for name in _TENSORS}, about)


_MARK = "attentive_probe"
_TENSORS = ("mean", "scale", "query", "weight", "bias")


def load_attentive_probe(path: Path) -> AttentiveProbe:
    """Read what :meth:`AttentiveProbe.save` wrote.

    Raises:
        WeightsError: the file is not such a probe, or damaged.
    """

    def make(tensors: dict[str, Tensor], about: dict[str, Any]) -> AttentiveProbe:
        return AttentiveProbe(
            names=tuple(about["names"]),
            facts=about["facts"],
            **{name: tensors[name] for name in _TENSORS},
        )

    return load_head(
        path,
        _MARK,
        make,
        what="attentive probe",
        remedy="Give a file that eval/classification.py --pooling attentive saved",
        kind="no_probe",
    )


def fit_attentive_probe(
    names: tuple[str, ...],
    train: tuple[ReadTokens, Floats],
    validation: tuple[ReadTokens, Floats],
    *,
    seed: int = 0,
) -> AttentiveProbe:
    """Fit a probe for each setting of :data:`GRID` and keep the best on validation.

    AdamW over 60 epochs with a cosine; all settings see the same batches. The setting is chosen by
    mean AUROC, the same for all labels.

    Args:
        names: of the labels.
        train: tokens and targets [images, labels]; unknown ones, NaN, take no part.
        validation: the same.
        seed: of weights and order.

    Raises:
        DataError: no validation target is of use to choose by.
    """
    read, truth = train[0], torch.from_numpy(train[1]).float()
    generator = torch.Generator().manual_seed(seed)
    mean, scale = _moments(read, len(truth))
    dim, labels, settings = len(mean), len(names), len(GRID)
    start = 0.01 * torch.randn(2, labels, dim, generator=generator)
    layers = [[start[0].clone(), start[1].clone(), torch.zeros(labels)] for _ in range(settings)]
    for layer in layers:
        for parameter in layer:
            parameter.requires_grad_()
    optimiser = torch.optim.AdamW(
        [
            {"params": layer, "lr": rate, "weight_decay": decay}
            for layer, (rate, decay) in zip(layers, GRID, strict=True)
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for places in torch.randperm(len(truth), generator=generator).split(BATCH):
            tokens = (read(places.tolist()) - mean) / scale
            # One set of labels after the other: they are fitted alike, and nothing is shared.
            query, weight, bias = (torch.cat(part) for part in zip(*layers, strict=True))
            outputs = _outputs(tokens, query, weight, bias).unflatten(1, (settings, labels))
            optimiser.zero_grad()
            _loss(outputs, truth[places]).backward()
            optimiser.step()
        schedule.step()
    probes = [
        AttentiveProbe(
            names,
            mean,
            scale,
            query.detach(),
            weight.detach(),
            bias.detach(),
            {"learning_rate": rate, "weight_decay": decay},
        )
        for (query, weight, bias), (rate, decay) in zip(layers, GRID, strict=True)
    ]
    qualities = [
        mean_auroc(probe.predict(validation[0], len(validation[1])), validation[1])
        for probe in probes
    ]
    if max(qualities) == -np.inf:
        raise DataError(
            "the validation images have no target with two known values to choose a probe by",
            remedy="Give a manifest with a larger validation split",
            kind="constant_validation",
        )
    return probes[int(np.argmax(qualities))]


def _attention(tokens: Tensor, query: Tensor) -> Tensor:
    """Shares of tokens ``[images, tokens, dim]`` for queries ``[labels, dim]``."""
    scores = torch.einsum("itd,ld->ilt", tokens, query) / tokens.shape[-1] ** 0.5
    return scores.softmax(-1)


def _outputs(tokens: Tensor, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    pooled = _attention(tokens, query) @ tokens  # [images, labels, dim]
    return (pooled * weight).sum(-1) / tokens.shape[-1] ** 0.5 + bias


def _loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Sum over settings of the mean over known targets.

    Args:
        outputs: logits, [images, settings, labels].
        truth: NaN where unknown, [images, labels].
    """
    known = ~truth.isnan()[:, None]
    target = truth.nan_to_num()[:, None].expand_as(outputs)
    losses = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _moments(read: ReadTokens, images: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all tokens of a split, [dim] each."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for places in torch.arange(images).split(BATCH):
        tokens = read(places.tolist()).double().flatten(0, 1)
        count += len(tokens)
        total, squares = total + tokens.sum(0), squares + tokens.square().sum(0)
    mean = total / count
    scale = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=_SMALLEST)
    return mean.float(), scale.float()
