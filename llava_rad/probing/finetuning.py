"""Fine-tuning: the whole encoder learns the labels, with a linear layer on its CLS vector.

The other end of the scale from a frozen probe. It says what the encoder is worth as a start, and
costs an encoder's training.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError
from llava_rad.features import BATCH, read_inputs
from llava_rad.probing.classification import ProbeResult, count_patients
from llava_rad.probing.examples import Example, Examples
from llava_rad.probing.linear_probe import LinearProbe
from llava_rad.probing.outcome import BinaryOutcome
from llava_rad.probing.scores import Floats, mean_auroc
from llava_rad.probing.targets import Target
from llava_rad.processes import share_jobs

HEAD_FACTOR = 10.0  # the new layer's learning rate over the encoder's
WARMUP = 0.1  # share of the steps


def fine_tune(
    encoder: ImageEncoder,
    examples: Examples,
    targets: Sequence[Target],
    *,
    epochs: int = 10,
    learning_rate: float = 1e-4,
    seeds: int = 1,
    workers: int = 0,
    save: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ProbeResult:
    """Train encoder and linear layer, keep the epoch that is best on validation, test it.

    AdamW with a linear warm-up and a cosine, batches of 16, no augmentation, masked binary
    cross-entropy. Processes of ``accelerate launch`` share the seeds.

    Args:
        encoder: the start; stays as it is.
        examples: the images.
        targets: binary ones.
        epochs: passes over the training images.
        learning_rate: of the encoder; the layer's is ten times that.
        seeds: number of fits.
        workers: processes that read images ahead.
        save: folder for the first seed's encoder; its layer is among the result's probes.
        progress: called with a line after each epoch.

    Raises:
        ConfigError: a number is out of range.
        ImageError: an image cannot be read.
    """
    if epochs < 1 or seeds < 1 or learning_rate <= 0:
        raise ConfigError(
            f"epochs is {epochs}, seeds is {seeds}, learning_rate is {learning_rate}",
            remedy="Give values above 0",
        )
    names = tuple(target.name for target in targets)
    train = np.stack([target.train for target in targets], axis=1)
    validation = np.stack([target.validation for target in targets], axis=1)
    test = np.stack([target.test for target in targets], axis=1)

    def fit(seed: int) -> tuple[Floats, LinearProbe]:
        tuned = copy.deepcopy(encoder).requires_grad_(True)
        head = nn.Linear(encoder.dim, len(names)).to(next(tuned.parameters()).device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        generator = torch.Generator().manual_seed(seed)
        orders = [
            torch.randperm(len(train), generator=generator).split(BATCH) for _ in range(epochs)
        ]
        steps = sum(map(len, orders))
        warmup = max(1, round(WARMUP * steps))
        optimiser = torch.optim.AdamW(
            [
                {"params": tuned.parameters(), "lr": learning_rate},
                {"params": head.parameters(), "lr": learning_rate * HEAD_FACTOR},
            ],
            weight_decay=0.05,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min(
                (step + 1) / warmup,
                0.5 * (1 + np.cos(np.pi * max(0, step - warmup) / max(1, steps - warmup))),
            ),
        )
        best = -np.inf
        state: dict[str, Any] = {}
        for epoch, order in enumerate(orders):
            paths = [[examples.train[int(i)].path for i in batch] for batch in order]
            inputs = read_inputs(paths, tuned.preprocessing, workers)
            for batch, pixels in zip(order, inputs, strict=True):
                truth = torch.from_numpy(train[batch.numpy()]).float().to(head.weight.device)
                known = ~truth.isnan()
                outputs = head(tuned.encode(pixels.to(head.weight.device)).cls.float())
                losses = F.binary_cross_entropy_with_logits(
                    outputs, truth.nan_to_num(), reduction="none"
                )
                optimiser.zero_grad()
                ((losses * known).sum() / known.sum().clamp(min=1)).backward()
                optimiser.step()
                schedule.step()
            scores = _predict(tuned, head, examples.validation, workers)
            quality = mean_auroc(scores, validation)
            if progress:
                progress(f"seed {seed}, epoch {epoch + 1}/{epochs}: validation AUROC {quality:.3f}")
            if quality > best or not state:
                best = quality
                state = copy.deepcopy({"encoder": tuned.state_dict(), "head": head.state_dict()})
        tuned.load_state_dict(state["encoder"])
        head.load_state_dict(state["head"])
        if save is not None and seed == 0:
            tuned.save_pretrained(save)
        probe = LinearProbe(
            "binary",
            names,
            head.weight.detach().cpu().double().numpy(),
            head.bias.detach().cpu().double().numpy(),
            {"fine_tuned": True, "epochs": epochs, "learning_rate": learning_rate},
        )
        return _predict(tuned, head, examples.test, workers), probe

    results = share_jobs(fit, range(seeds))
    known = (~np.isnan(test)).any(axis=1)
    patients = tuple(examples.test[index].patient for index in np.flatnonzero(known))
    scores = np.stack([scores for scores, _ in results])[:, known]
    return ProbeResult(
        outcome=BinaryOutcome(patients, names, scores, test[known]),
        probes=tuple(probe for _, probe in results),
        patients=count_patients(
            targets,
            (tuple(e.patient for e in examples.train), train),
            (tuple(e.patient for e in examples.test), test),
            np.ones(len(train), bool),
        ),
        facts={"fits": seeds, "fraction": 1.0},
    )


@torch.inference_mode()
def _predict(
    encoder: ImageEncoder, head: nn.Linear, examples: Sequence[Example], workers: int
) -> Floats:
    paths = [e.path for e in examples]
    batches = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    outputs = [
        head(encoder.encode(pixels.to(head.weight.device)).cls.float()).sigmoid().cpu()
        for pixels in read_inputs(batches, encoder.preprocessing, workers)
    ]
    return torch.cat(outputs).double().numpy()
