"""Training segmentation heads on frozen patch tokens, and testing them.

The encoder sees whole images, padded to a square, whatever its own preprocessing cuts off. Masks
and predictions meet on a grid of 512 pixels for the image's longer side, so that encoders of all
input sizes are measured alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, DataError
from llava_rad.features import BATCH, FeatureStore, fill_together
from llava_rad.outlines import (
    SCALE,
    SegmentationHead,
    masks_of_image,
    require_own,
)
from llava_rad.probing.examples import Example, Examples
from llava_rad.probing.masks import Mask, MaskSource, require_both_sides
from llava_rad.probing.outcome import MaskOutcome
from llava_rad.probing.overlap import dice, surface_distance
from llava_rad.probing.scores import Floats
from llava_rad.processes import share_jobs

_NO_MASKS = (
    "Check that the manifest names masks of these structures, or that those of a folder are named "
    "like their images"
)
SIDE = 512  # pixels of the longer side, on which masks are compared
LEARNING_RATES = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class SegmentationResult:
    """A head's test.

    Attributes:
        outcome: Dice and distances of all seeds on the test images.
        examples: the test images, in the outcome's order.
        head: of the first seed.
        validation_dice: of each learning rate that was tried.
    """

    outcome: MaskOutcome
    examples: tuple[Example, ...]
    head: SegmentationHead
    validation_dice: dict[float, float]


@dataclass(frozen=True)
class _Masks:
    """Masks of examples as targets of training.

    Attributes:
        examples: those with a known mask.
        targets: share of each logit's area inside the structure, [examples, structures, ...].
        known: whether the mask is known, bool [examples, structures].
        present: whether it is known and not empty, bool [examples, structures].
        divided: whether it has an inside and an outside, bool [examples, structures].
    """

    examples: tuple[Example, ...]
    targets: Tensor
    known: Tensor
    present: Tensor
    divided: Tensor


@dataclass(frozen=True)
class _Agreement:
    """How a head's masks agree with the true ones, each [examples, structures].

    Attributes:
        dice: NaN where the true mask is not known.
        distance: of the surfaces in % of the longer side, NaN where there is none.
        outlined: 1 where the head outlined anything.
    """

    dice: Floats
    distance: Floats
    outlined: Floats


def segment(
    encoder: ImageEncoder,
    examples: Examples,
    sources: Sequence[MaskSource],
    store: FeatureStore,
    *,
    head: str = "linear",
    width: int = 256,
    steps: int = 500,
    seeds: int = 5,
    progress: Callable[[str], None] | None = None,
) -> SegmentationResult:
    """Train a head on the training images that have masks, and test it.

    AdamW with a cosine, batches of 16, binary cross-entropy and Dice loss in equal parts. The
    learning rate is the one of three whose first seed has the best Dice on validation. Processes
    of ``accelerate launch`` share the fits.

    Args:
        encoder: from :func:`llava_rad.outlines.seeing_whole_images`.
        examples: images; those without any mask are passed over.
        sources: of the masks.
        store: of the encoder's patch tokens.
        head: kind of head, see :mod:`llava_rad.outlines.heads`.
        width: its channels.
        steps: of each fit.
        seeds: number of fits.
        progress: called with a line now and then.

    Raises:
        ConfigError: there is no such head, or a number is out of range.
        DataError: a split has no masks, one cannot be read, or all are empty or full.
        ImageError: an image cannot be read.
    """
    if steps < 1 or seeds < 1 or width < 1:
        raise ConfigError(
            f"steps is {steps}, seeds is {seeds}, width is {width}", remedy="Use 1 or more"
        )
    say = progress or (lambda line: None)
    structures = tuple(s for source in sources for s in source.structures)
    grid = encoder.grid(encoder.image_size, encoder.image_size)
    parts = {
        name: _read_masks(getattr(examples, name), sources, grid)
        for name in ("train", "validation", "test")
    }
    for name, part in parts.items():
        if not part.examples:
            raise DataError(
                f"the {name} split has no image with a mask",
                remedy=_NO_MASKS,
                kind="no_masks",
            )
        say(f"{len(part.examples)} {name} images with masks")
    _check_masks(structures, tuple(parts.values()))
    fill_together(
        store,
        [e.path for part in parts.values() for e in part.examples],
        lambda done, of: say(f"encoded patches of {done} of {of}"),
    )
    train = parts["train"]
    mean, scale = _token_statistics(store, train.examples)

    def fit(job: tuple[int, float]) -> tuple[float, dict[str, Tensor]]:
        seed, learning_rate = job
        torch.manual_seed(seed)
        made = SegmentationHead(head, structures, encoder.dim, width)
        made.mean.copy_(mean)
        made.scale.copy_(scale)
        _train(made, train, store, grid, learning_rate, steps, seed)
        validated = _test(made, parts["validation"], sources, store, grid, distances=False)
        quality = float(np.nanmean(np.nanmean(validated.dice, axis=0)))
        say(f"seed {seed}, learning rate {learning_rate:g}: validation Dice {quality:.3f}")
        return quality, {name: t.cpu() for name, t in made.state_dict().items()}

    tried = share_jobs(fit, [(0, rate) for rate in LEARNING_RATES])
    best = int(np.argmax([quality for quality, _ in tried]))
    others = share_jobs(fit, [(seed, LEARNING_RATES[best]) for seed in range(1, seeds)])
    states = [tried[best][1], *(state for _, state in others)]

    def test(state: dict[str, Tensor]) -> _Agreement:
        made = SegmentationHead(head, structures, encoder.dim, width)
        made.load_state_dict(state)
        return _test(made, parts["test"], sources, store, grid)

    tests = share_jobs(test, states)
    first = SegmentationHead(head, structures, encoder.dim, width)
    first.load_state_dict(states[0])
    return SegmentationResult(
        outcome=_outcome(structures, parts["test"], tests),
        examples=parts["test"].examples,
        head=first.eval(),
        validation_dice={
            rate: quality for rate, (quality, _) in zip(LEARNING_RATES, tried, strict=True)
        },
    )


def evaluate_head(
    encoder: ImageEncoder,
    examples: Sequence[Example],
    sources: Sequence[MaskSource],
    store: FeatureStore,
    head: SegmentationHead,
) -> SegmentationResult:
    """Test a saved head on images with masks.

    Raises:
        ConfigError: the head is for other structures.
        ModelError: it belongs to another encoder.
        DataError: no image has a mask, one cannot be read, or all are empty or full.
    """
    require_own(encoder, head)
    structures = tuple(s for source in sources for s in source.structures)
    if structures != head.structures:
        raise ConfigError(
            f"the masks are of {', '.join(structures)}, the head outlines "
            f"{', '.join(head.structures)}",
            remedy="Give masks of the same structures in the same order",
        )
    grid = encoder.grid(encoder.image_size, encoder.image_size)
    part = _read_masks(examples, sources, grid)
    if not part.examples:
        raise DataError(
            "no test image has a mask",
            remedy=_NO_MASKS,
            kind="no_masks",
        )
    _check_masks(structures, (part,))
    fill_together(store, [e.path for e in part.examples])
    tests = [_test(head, part, sources, store, grid)]
    return SegmentationResult(_outcome(structures, part, tests), part.examples, head, {})


def _read_masks(
    examples: Sequence[Example], sources: Sequence[MaskSource], grid: tuple[int, int]
) -> _Masks:
    kept, targets, known, present, divided = [], [], [], [], []
    for example in examples:
        masks = _masks_of(example, sources)
        if all(mask is None for mask in masks):
            continue
        kept.append(example)
        known.append([mask is not None for mask in masks])
        present.append([mask is not None and bool(mask.any()) for mask in masks])
        divided.append([mask is not None and bool(mask.any() and not mask.all()) for mask in masks])
        size = (SCALE * grid[1], SCALE * grid[0])
        targets.append(
            [
                np.zeros(size[::-1], np.uint8)
                if mask is None
                else np.asarray(_squared(mask).resize(size, Image.Resampling.BOX))
                for mask in masks
            ]
        )
    return _Masks(
        tuple(kept),
        torch.from_numpy(np.array(targets)),
        torch.from_numpy(np.array(known, dtype=bool)),
        torch.from_numpy(np.array(present, dtype=bool)),
        torch.from_numpy(np.array(divided, dtype=bool)),
    )


def _check_masks(structures: Sequence[str], parts: Sequence[_Masks]) -> None:
    """Refuse masks that are all or nothing over the whole set."""
    require_both_sides(
        structures,
        np.concatenate([part.known.numpy() for part in parts]),
        np.concatenate([part.divided.numpy() for part in parts]),
    )


def _masks_of(example: Example, sources: Sequence[MaskSource]) -> list[Mask | None]:
    return [mask for source in sources for mask in source.read(example)]


def _squared(mask: Mask) -> Image.Image:
    """The mask as the encoder sees its image: padded to a square."""
    height, width = mask.shape
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.where(mask, 255, 0)
    return Image.fromarray(square)


def _token_statistics(store: FeatureStore, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over at most 256 images' tokens."""
    paths = [e.path for e in examples[:: max(1, len(examples) // 256)]]
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(paths), BATCH):
        tokens = store.read(paths[start : start + BATCH]).double().flatten(0, 1)
        count += len(tokens)
        total = total + tokens.sum(dim=0)
        square = square + tokens.square().sum(dim=0)
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation > 1e-6, deviation, 1.0).float()


def _train(
    head: SegmentationHead,
    masks: _Masks,
    store: FeatureStore,
    grid: tuple[int, int],
    learning_rate: float,
    steps: int,
    seed: int,
) -> None:
    device = next(store.encoder.parameters()).device
    head.to(device).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < min(BATCH, len(masks.examples)):
            order += torch.randperm(len(masks.examples), generator=generator).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        patches = store.read([masks.examples[i].path for i in batch]).to(device)
        loss = _loss(
            head(patches, grid),
            masks.targets[batch].to(device).float() / 255,
            masks.known[batch].to(device),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    head.cpu().eval()


def _loss(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus Dice loss over the masks that are known."""
    weight = known[:, :, None, None].float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    entropy = (entropy * weight).sum() / (weight.sum() * logits.shape[-1] * logits.shape[-2])
    inside = logits.sigmoid() * weight
    overlap = (inside * targets).sum(dim=(0, 2, 3))
    total = (inside + targets * weight).sum(dim=(0, 2, 3))
    return entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()


@torch.inference_mode()
def _test(
    head: SegmentationHead,
    masks: _Masks,
    sources: Sequence[MaskSource],
    store: FeatureStore,
    grid: tuple[int, int],
    *,
    distances: bool = True,
) -> _Agreement:
    device = next(store.encoder.parameters()).device
    head.to(device).eval()
    overlaps = np.full((len(masks.examples), len(head.structures)), np.nan)
    apart, outlined = np.full_like(overlaps, np.nan), np.zeros_like(overlaps)
    for start in range(0, len(masks.examples), BATCH):
        batch = masks.examples[start : start + BATCH]
        logits = head(store.read([e.path for e in batch]).to(device), grid).cpu()
        for row, (example, image_logits) in enumerate(zip(batch, logits, strict=True), start):
            true = _masks_of(example, sources)
            shape = next(mask.shape for mask in true if mask is not None)
            height, width = (max(1, round(SIDE * side / max(shape))) for side in shape)
            predicted = masks_of_image(image_logits, height, width)
            for column, mask in enumerate(true):
                if mask is None:
                    continue
                truth = _shrunk(mask, height, width)
                outlined[row, column] = predicted[column].any()
                overlaps[row, column] = dice(predicted[column], truth)
                if distances:
                    apart[row, column] = surface_distance(predicted[column], truth) * 100 / SIDE
    head.cpu()
    return _Agreement(overlaps, apart, outlined)


def _shrunk(mask: Mask, height: int, width: int) -> Mask:
    """A mask on the grid of the comparison; the smallest structure keeps a pixel there."""
    nearest = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    found = np.asarray(nearest, bool)
    if mask.any() and not found.any():
        gray = Image.fromarray(np.where(mask, 255, 0).astype(np.float32))
        found = np.asarray(gray.resize((width, height), Image.Resampling.BOX)) > 0
    return found


def _outcome(
    structures: tuple[str, ...], masks: _Masks, tests: Sequence[_Agreement]
) -> MaskOutcome:
    return MaskOutcome(
        patients=tuple(e.patient for e in masks.examples),
        structures=structures,
        dice=np.stack([test.dice for test in tests]),
        distance=np.stack([test.distance for test in tests]),
        outlined=np.stack([test.outlined for test in tests]),
        present=masks.present.double().numpy(),
    )
