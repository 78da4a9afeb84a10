"""Tasks as a configuration names them, run with any encoder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from llava_rad.config import Count, Range, check_ranges
from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError
from llava_rad.features import FeatureStore
from llava_rad.outlines import seeing_whole_images
from llava_rad.probing.classification import (
    run_attentive_probe,
    run_linear_probe,
    split_vectors,
)
from llava_rad.probing.examples import Examples, read_examples
from llava_rad.probing.features import ATTENTIVE, extract_features
from llava_rad.probing.masks import open_masks
from llava_rad.probing.outcome import Outcome
from llava_rad.probing.segmentation import segment
from llava_rad.probing.targets import Target, column_target, label_targets


@dataclass(frozen=True)
class TaskConfig:
    """One task: labels, or a column, or masks.

    Attributes:
        name: of the task in tables.
        manifests: its images; their splits are kept.
        labels: names of labels to classify, by a linear probe.
        column: a recorded fact to predict, by a linear probe.
        masks: structures to outline, as ``eval/segmentation.py --masks`` takes them.
        views: images of these views; all of them if empty.
        pooling: of the probes, ``cls``, ``mean``, ``cls+mean`` or, for labels, ``attentive``.
        solver: of the probes, ``lbfgs`` or ``adamw``.
        fraction: share of the training patients that the probes learn from.
        head: of masks, ``linear``, ``pyramid`` or ``upernet``.
        width: channels of ``pyramid`` and ``upernet``.
        steps: of each fit of a head.
        seeds: number of fits.
    """

    name: str
    manifests: list[Path]
    labels: list[str] = field(default_factory=list)
    column: str | None = None
    masks: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    pooling: str = "cls"
    solver: str = "lbfgs"
    fraction: Annotated[float, Range(above=0, high=1)] = 1.0
    head: str = "linear"
    width: Count = 256
    steps: Count = 500
    seeds: Count = 5

    def __post_init__(self) -> None:
        check_ranges(self)
        given = [key for key in ("labels", "column", "masks") if getattr(self, key)]
        if len(given) != 1:
            raise ConfigError(
                f"a task needs one of labels, column and masks, this has {' and '.join(given)}"
                if given
                else "a task needs one of labels, column and masks",
                where=self.name,
                remedy="Make a task of each",
            )


def check_task(task: TaskConfig) -> Examples:
    """Read everything that a task needs but the pixels, and return its images.

    Raises:
        ConfigError, DataError: the task cannot be done, with any encoder.
    """
    examples = read_examples(task.manifests, task.views)
    if task.masks:
        open_masks(task.masks)
    else:
        _targets(task, examples)
    return examples


def run_task(
    encoder: ImageEncoder,
    task: TaskConfig,
    cache: Path,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Fit and test what the task asks for.

    Args:
        encoder: frozen.
        task: what to do.
        cache: folder for vectors and patch tokens of all encoders.
        progress: called with a line now and then.

    Raises:
        ConfigError, DataError, ImageError: the task cannot be done.
    """
    say = progress or (lambda line: None)
    examples = read_examples(task.manifests, task.views)
    if task.masks:
        whole = seeing_whole_images(encoder)
        return segment(
            whole,
            examples,
            open_masks(task.masks),
            FeatureStore(cache, whole),
            head=task.head,
            width=task.width,
            steps=task.steps,
            seeds=task.seeds,
            progress=progress,
        ).outcome
    if task.pooling == ATTENTIVE:
        return run_attentive_probe(
            FeatureStore(cache, encoder),
            examples,
            _targets(task, examples),
            seeds=task.seeds,
            fraction=task.fraction,
            progress=progress,
        ).outcome
    features = extract_features(
        encoder,
        [e.path for e in examples.all],
        cache=cache,
        progress=lambda done, of: say(f"encoded {done} of {of}"),
    )
    return run_linear_probe(
        split_vectors(features, examples, task.pooling),
        _targets(task, examples),
        solver=task.solver,
        seeds=task.seeds,
        fraction=task.fraction,
    ).outcome


def _targets(task: TaskConfig, examples: Examples) -> list[Target]:
    if task.labels:
        return label_targets(examples, task.labels)
    return [column_target(examples, task.column or "")]
