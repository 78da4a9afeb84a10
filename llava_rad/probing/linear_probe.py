"""Linear probes: standardised features, one linear layer, regularisation chosen on validation."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llava_rad.errors import ConfigError, DataError
from llava_rad.probing.scores import Floats, mean_auroc
from llava_rad.probing.targets import Kind
from llava_rad.saved_heads import load_head, save_head

SOLVERS = ("lbfgs", "adamw")

INVERSE_PENALTIES = tuple(10.0**power for power in range(-7, 3))
_PATIENCE = 3  # settings without improvement, after which weaker penalties are not tried
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS = 100
BATCH = 128
_MARK = "linear_probe"


@dataclass(frozen=True)
class LinearProbe:
    """A linear layer on an encoder's vectors.

    Attributes:
        kind: what the outputs are.
        names: labels of a ``binary`` probe, classes of a ``category``, one name of a ``number``.
        weight: [outputs, dim], for vectors as the encoder gives them.
        bias: [outputs].
        facts: what it belongs to and how it was made, all of it JSON.
    """

    kind: Kind
    names: tuple[str, ...]
    weight: Floats
    bias: Floats
    facts: dict[str, Any] = field(default_factory=dict)

    def predict(self, features: Floats) -> Floats:
        """Probabilities of labels or classes, or the number itself.

        Args:
            features: [images, dim].

        Returns:
            [images, outputs].
        """
        outputs = features @ self.weight.T + self.bias
        if self.kind == "binary":
            return 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))
        if self.kind == "category":
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return outputs / outputs.sum(axis=1, keepdims=True)
        return outputs

    def with_facts(self, **facts: object) -> "LinearProbe":
        """The probe with further facts, such as the encoder it belongs to."""
        return replace(self, facts={**self.facts, **facts})

    def save(self, path: Path) -> None:
        """Write ``path``, a safetensors file that :func:`load_probe` reads back."""
        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        about = {"kind": self.kind, "names": list(self.names), "facts": self.facts}
        save_head(path, _MARK, {name: tensor.float() for name, tensor in tensors.items()}, about)


def load_probe(path: Path) -> LinearProbe:
    """Read what :meth:`LinearProbe.save` wrote.

    Raises:
        WeightsError: the file is not such a probe, or damaged.
    """

    def make(tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> LinearProbe:
        weight, bias = (tensors[name].double().numpy() for name in ("weight", "bias"))
        return LinearProbe(about["kind"], tuple(about["names"]), weight, bias, about["facts"])

    return load_head(
        path,
        _MARK,
        make,
        what="linear probe",
        remedy="Give a file that eval/classification.py or eval/attributes.py saved",
        kind="no_probe",
    )


def fit_linear_probe(
    kind: Kind,
    names: tuple[str, ...],
    train: tuple[Floats, Floats],
    validation: tuple[Floats, Floats],
    *,
    solver: str = "lbfgs",
    seed: int = 0,
    likeliest: bool = False,
) -> LinearProbe:
    """Fit a probe for each setting of a grid and keep the best on validation.

    ``lbfgs`` is logistic regression (ridge regression for a number) over up to ten strengths of the
    L2 penalty, from strong to weak; it has one solution, and the seed does nothing. ``adamw`` is
    100 epochs with a cosine over six learning rates. The setting is chosen by mean AUROC for binary
    labels, by likelihood for classes, by squared error for numbers.

    Args:
        kind: of the target.
        names: see :class:`LinearProbe`.
        train: features [examples, dim] and targets, [examples, labels] for ``binary``, else
            [examples]; unknown ones, NaN, take no part.
        validation: the same.
        solver: how to fit.
        seed: of weights and order.
        likeliest: choose by likelihood for binary labels too, where probabilities are wanted: a
            penalty that leaves nearly nothing of the weights can rank as well as any.

    Raises:
        ConfigError: there is no such solver.
        DataError: no validation target is of use to choose by.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"solver is {solver!r}", remedy=f"Use one of {', '.join(SOLVERS)}")
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    features, targets = (train[0] - mean) / scale, train[1]
    fits = _lbfgs if solver == "lbfgs" else _adamw
    best: LinearProbe | None = None
    highest, since = -np.inf, 0
    for setting, weight, bias in fits(kind, len(names), features, targets, seed):
        probe = LinearProbe(
            kind,
            names,
            weight / scale,
            bias - weight @ (mean / scale),
            {"solver": solver, **setting},
        )
        quality = _quality(probe, *validation, likeliest=likeliest)
        since += 1
        if quality > highest:
            best, highest, since = probe, quality, 0
        elif solver == "lbfgs" and best is not None and since == _PATIENCE:
            break
    if best is None:
        raise DataError(
            "the validation images have no target with two known values to choose a probe by",
            remedy="Give a manifest with a larger validation split",
            kind="constant_validation",
        )
    return best


def _quality(
    probe: LinearProbe, features: Floats, targets: Floats, *, likeliest: bool = False
) -> float:
    """Higher is better; minus infinity where it cannot be told."""
    predicted = probe.predict(features)
    if probe.kind == "binary" and not likeliest:
        return mean_auroc(predicted, targets)
    known = ~np.isnan(targets)
    if not known.any():
        return -np.inf
    if probe.kind == "binary":
        chosen = np.where(targets > 0, predicted, 1 - predicted)[known]
        return float(np.log(np.maximum(chosen, 1e-12)).mean())
    if probe.kind == "category":
        chosen = predicted[known, targets[known].astype(int)]
        return float(np.log(np.maximum(chosen, 1e-12)).mean())
    return -float(((predicted[known, 0] - targets[known]) ** 2).mean())


_Fit = tuple[dict[str, float], Floats, Floats]


def _lbfgs(
    kind: Kind, outputs: int, features: Floats, targets: Floats, seed: int
) -> Iterator[_Fit]:
    from sklearn.linear_model import LogisticRegression, Ridge

    def logistic(inverse_penalty: float, rows: Floats, classes: Floats) -> LogisticRegression:
        return LogisticRegression(C=inverse_penalty, max_iter=2000).fit(rows, classes)

    for inverse_penalty in INVERSE_PENALTIES:
        weight = np.zeros((outputs, features.shape[1]))
        bias = np.zeros(outputs)
        if kind == "binary":
            for column in range(outputs):
                known = ~np.isnan(targets[:, column])
                truth = targets[known, column]
                # A few patients may all be of one kind; then nothing is learned of the label.
                if 0 < truth.sum() < len(truth):
                    model = logistic(inverse_penalty, features[known], truth)
                    weight[column], bias[column] = model.coef_[0], model.intercept_[0]
        elif kind == "category":
            known = ~np.isnan(targets)
            seen = np.unique(targets[known]).astype(int)
            bias[:] = -np.inf if outputs > len(seen) else 0.0
            if len(seen) > 1:
                model = logistic(inverse_penalty, features[known], targets[known])
                rows, shift = model.coef_, model.intercept_
                if len(seen) == 2:  # scikit-learn gives the second class alone
                    rows, shift = np.vstack([-rows, rows]) / 2, np.r_[-shift, shift] / 2
                weight[seen], bias[seen] = rows, shift
            else:
                bias[seen] = 0.0
        else:
            known = ~np.isnan(targets)
            model = Ridge(alpha=1 / inverse_penalty).fit(features[known], targets[known])
            weight[0], bias[0] = model.coef_, model.intercept_
        yield {"inverse_penalty": inverse_penalty}, weight, np.maximum(bias, -1e9)


def _adamw(
    kind: Kind, outputs: int, features: Floats, targets: Floats, seed: int
) -> Iterator[_Fit]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(features).float()
    truth = torch.from_numpy(targets).float()
    centre, spread = 0.0, 1.0
    if kind == "number":
        known = ~truth.isnan()
        centre, spread = float(truth[known].mean()), max(float(truth[known].std()), 1e-6)
        truth = (truth - centre) / spread
    # One layer for each learning rate, computed together; their gradients do not meet.
    start = 0.01 * torch.randn(outputs, rows.shape[1], generator=generator)
    weights = [start.clone().requires_grad_() for _ in LEARNING_RATES]
    biases = [torch.zeros(outputs, requires_grad=True) for _ in LEARNING_RATES]
    optimiser = torch.optim.AdamW(
        [
            {"params": layer, "lr": layer_lr}
            for *layer, layer_lr in zip(weights, biases, LEARNING_RATES, strict=True)
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(rows), generator=generator).split(BATCH):
            predicted = torch.einsum("bd,lcd->lbc", rows[batch], torch.stack(weights))
            predicted = predicted + torch.stack(biases)[:, None]
            optimiser.zero_grad()
            _loss(kind, predicted, truth[batch]).backward()
            optimiser.step()
        schedule.step()
    for weight, bias, lr in zip(weights, biases, LEARNING_RATES, strict=True):
        yield (
            {"learning_rate": lr},
            spread * weight.detach().double().numpy(),
            spread * bias.detach().double().numpy() + centre,
        )


def _loss(kind: Kind, outputs: Tensor, truth: Tensor) -> Tensor:
    """Sum over layers of the mean loss over a batch's known targets.

    Args:
        kind: of the target.
        outputs: [layers, batch, outputs].
        truth: NaN where unknown, [batch, labels] for ``binary``, else [batch].
    """
    known = ~truth.isnan()
    truth = truth.nan_to_num().expand(len(outputs), *truth.shape)
    if kind == "binary":
        losses = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
    elif kind == "category":
        losses = F.cross_entropy(outputs.transpose(1, 2), truth.long(), reduction="none")
    else:
        losses = (outputs[:, :, 0] - truth).square()
    return (losses * known).sum() / known.sum().clamp(min=1)
