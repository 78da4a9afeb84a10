"""The settings of comparing encoders: published ones, or pretrainings with one thing changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from llava_rad.config import Count, Range, Seed, check_ranges
from llava_rad.dinov2.config import SourceConfig
from llava_rad.errors import ConfigError
from llava_rad.probing.judging import EncoderConfig, require_own_names
from llava_rad.probing.tasks import TaskConfig

#: The row of an ablation's architecture before any training.
RANDOM_WEIGHTS = "random weights"


@dataclass(frozen=True)
class CompareConfig:
    """A whole comparison.

    Attributes:
        output: folder of the results.
        encoders: rows of the table.
        tasks: columns of the table.
        reference: name of the encoder that the others are compared with; the first by default.
        cache: folder for vectors and patch tokens.
        title: of the page.
        resamples: of the test patients.
        seed: of the resamples.
    """

    output: Path
    encoders: list[EncoderConfig]
    tasks: list[TaskConfig]
    reference: str | None = None
    cache: Path = Path("runs/features")
    title: str = "Comparison of encoders"
    resamples: Count = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        require_own_names("encoders", [e.name for e in self.encoders])
        require_own_names("tasks", [t.name for t in self.tasks])
        if self.reference not in (None, *(e.name for e in self.encoders)):
            raise ConfigError(
                f"reference is {self.reference!r}",
                remedy=f"Use one of {', '.join(e.name for e in self.encoders)}",
            )


@dataclass(frozen=True)
class CellConfig:
    """One pretraining, or one a seed.

    Attributes:
        name: of its row.
        x: its place on the axis; None where the cells are categories.
        overrides: of the recipe, beside those of the whole ablation.
        sources: names of the sources it learns from; all of them if empty.
        patients: share of the patients of each of them, for manifests.
    """

    name: str
    x: Annotated[float, Range()] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    patients: Annotated[float, Range(above=0, high=1)] = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class AblationConfig:
    """A whole ablation.

    Attributes:
        output: folder of the results.
        recipe: a YAML file, or the name of one of configs/encoder.
        steps: optimiser steps of every pretraining. All lengths of the recipe's schedules (warm-up,
            high resolution ...) keep their share of the run.
        axis: what is changed, with its unit.
        cells: what it is changed to.
        tasks: columns of the table.
        sources: images to learn from, by name.
        overrides: settings of the recipe for all cells, as its YAML has them; dots may join keys.
        log: whether the axis is logarithmic.
        seeds: each cell is pretrained once with each; a seed decides weights, crops and patients.
        encoders: further rows, such as the start without any training.
        reference: the row that the others are compared with.
        launcher: command that starts the program instead of plain Python, such as ``torchrun
            --nproc_per_node 2``.
        cache: folder for vectors and patch tokens.
        title: of the page.
        resamples: of the test patients.
    """

    output: Path
    recipe: str
    steps: Count
    axis: str
    cells: list[CellConfig]
    tasks: list[TaskConfig]
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    log: bool = False
    seeds: list[Seed] = field(default_factory=lambda: [0])
    encoders: list[EncoderConfig] = field(default_factory=list)
    reference: str = RANDOM_WEIGHTS
    launcher: str | None = None
    cache: Path = Path("runs/features")
    title: str = "Ablation"
    resamples: Count = 1000

    def __post_init__(self) -> None:
        check_ranges(self)
        names = [*(cell.name for cell in self.cells), *(row.name for row in self.encoders)]
        require_own_names("cells and encoders", names)
        require_own_names("tasks", [task.name for task in self.tasks])
        require_own_names("seeds", [str(seed) for seed in self.seeds])
        if len({cell.x is None for cell in self.cells}) > 1:
            raise ConfigError("only some cells have an x", remedy="Give one to all or to none")
        unknown = {name for cell in self.cells for name in cell.sources} - self.sources.keys()
        if unknown:
            raise ConfigError(
                f"there is no source {', '.join(sorted(unknown))}",
                remedy="Name it under sources, with its path",
            )
