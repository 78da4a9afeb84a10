"""Pretrainings that differ in one thing: their recipes, their images, and where each one lies."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_rad.config import load_config
from llava_rad.data import Study, hash_manifest, load_manifest, save_manifest
from llava_rad.data.manifest import FORMATS
from llava_rad.data.patient_shares import share_of_patients
from llava_rad.dinov2.config import DataConfig, PretrainingConfig, SourceConfig
from llava_rad.dinov2.image_sources import ImageFiles, ImageSource, TarShards, image_folder
from llava_rad.errors import ConfigError


@dataclass(frozen=True)
class Pool:
    """A source that variants take their images from, read once.

    Attributes:
        source: its settings.
        studies: of its split, where it is a manifest.
    """

    source: SourceConfig
    studies: list[Study] | None


@dataclass(frozen=True)
class Drawn:
    """What a variant takes of a source.

    Attributes:
        source: as a whole.
        images: those that are taken.
        studies: theirs, where the source is a manifest.
    """

    source: SourceConfig
    images: ImageSource
    studies: list[Study] | None


@dataclass(frozen=True)
class Variant:
    """One pretraining.

    Attributes:
        name: among its like.
        seed: decides weights, crops, and which patients are drawn.
        recipe: without images and folder, which :meth:`place` adds.
        share: of the patients of each source.
        drawn: by the name of the source.
    """

    name: str
    seed: int
    recipe: PretrainingConfig
    share: float
    drawn: dict[str, Drawn]

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        schedule = self.recipe.schedule
        return round(schedule.epochs * (schedule.epoch_steps or 0))

    @property
    def images(self) -> int:
        """How many it learns from."""
        return sum(len(drawn.images) for drawn in self.drawn.values())

    @property
    def patients(self) -> int | None:
        """How many it learns from; None where a source is no manifest."""
        ids: set[tuple[str, str]] = set()
        for name, drawn in self.drawn.items():
            if drawn.studies is None:
                return None
            ids.update((name, study.patient_id) for study in drawn.studies)
        return len(ids)

    def place(self, folder: Path, launcher: str | None) -> tuple[PretrainingConfig, dict[str, str]]:
        """Complete the recipe.

        Its folder has a name made from all that decides the weights: a variant that is changed gets
        another, and never finds a checkpoint of what it was before. A share of a manifest is
        written as a manifest of its own.

        Args:
            folder: of all variants.
            launcher: command that starts it on several processes, which share a batch.

        Returns:
            The recipe, and the hash of each source by its name.
        """
        sources, hashes = [], {}
        for name, drawn in self.drawn.items():
            source = drawn.source
            if drawn.studies is None:
                hashes[name] = drawn.images.fingerprint()
            elif self.share == 1:
                hashes[name] = hash_manifest(source.path)
            else:
                file = f"{name}-{100 * self.share:g}-percent-seed{self.seed}.jsonl"
                source = replace(source, path=folder / "manifests" / file)
                hashes[name] = save_manifest(drawn.studies, source.path)
            sources.append(source)
        cache = self.recipe.data.cache_folder or folder / "cache"
        data = replace(self.recipe.data, sources=sources, cache_folder=cache)
        recipe = replace(self.recipe, data=data)
        decides = recipe.decides_weights(processes=1)
        for source_values, digest in zip(decides["data"]["sources"], hashes.values(), strict=True):
            source_values["path"] = digest
        content = json.dumps([decides, launcher], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:12]
        slug = "".join(c if c.isalnum() else "-" for c in self.name)
        output = folder / "pretrainings" / f"{slug}-seed{self.seed}-{key}"
        return replace(recipe, output=output), hashes


def make_variant(
    name: str,
    file: Path,
    changes: Iterable[Mapping[str, Any]],
    *,
    steps: int,
    pools: Mapping[str, Pool],
    share: float = 1.0,
    seed: int = 0,
) -> Variant:
    """A recipe with changes, of a given length, on given images.

    Args:
        name: of the variant.
        file: YAML of the recipe.
        changes: settings as the YAML has them, later ones over earlier ones; dots may join keys.
        steps: see :func:`with_steps`.
        pools: sources by name.
        share: of the patients of each source, which must be a manifest if it is not 1; smaller
            shares are part of larger ones.
        seed: of the pretraining and of the draw.

    Raises:
        ConfigError: a setting is wrong, or the images are too few for one batch.
        DataError: a folder or shard cannot be read.
    """
    try:
        overrides = [override for change in changes for override in _flat(change)]
        if any(override.startswith("data.sources") for override in overrides):
            raise ConfigError("data.sources is set", remedy="Name the images under sources")
        # A recipe may name the images of its own encoder; these runs have others.
        own = [*overrides, "data.sources=[]", f"seed={seed}"]
        recipe = load_config(PretrainingConfig, file, own)
        drawn = {key: draw(key, pool, recipe.data, share, seed) for key, pool in pools.items()}
        variant = Variant(name, seed, with_steps(recipe, steps), share, drawn)
        batch = recipe.optimiser.batch_size
        if variant.images < batch:
            raise ConfigError(
                f"{variant.images} images are fewer than the {batch} of a forward pass",
                remedy="Lower optimiser.batch_size and raise optimiser.accumulate, or add images",
            )
    except ConfigError as error:
        where = f"{name}, {error.where}" if error.where else name
        raise ConfigError(error.what, where=where, remedy=error.remedy, kind=error.kind) from error
    return variant


def with_steps(recipe: PretrainingConfig, steps: int) -> PretrainingConfig:
    """A recipe of so many optimiser steps, whatever its images.

    The lengths of its schedules and of its high-resolution phase keep their share of the run. An
    epoch becomes a fixed number of steps: the recipe's ``epoch_steps``, or what leaves the number
    of epochs as it is.
    """
    schedule, high = recipe.schedule, recipe.high_resolution
    epoch_steps = schedule.epoch_steps or max(1, round(steps / schedule.epochs))
    epochs = steps / epoch_steps
    factor = epochs / schedule.epochs
    return replace(
        recipe,
        schedule=replace(
            schedule,
            epochs=epochs,
            epoch_steps=epoch_steps,
            warmup_epochs=schedule.warmup_epochs * factor,
            temperature_epochs=schedule.temperature_epochs * factor,
            freeze_last_layer_epochs=schedule.freeze_last_layer_epochs * factor,
            heads_only_epochs=schedule.heads_only_epochs * factor,
        ),
        high_resolution=high and replace(high, epochs=high.epochs * factor),
    )


def open_pool(source: SourceConfig) -> Pool:
    """Read a source's manifest, if it is one.

    Raises:
        DataError: it cannot be read.
    """
    if source.path.suffix in FORMATS:
        return Pool(source, load_manifest(source.path, split=source.split))
    return Pool(source, None)


def draw(name: str, pool: Pool, data: DataConfig, share: float = 1.0, seed: int = 0) -> Drawn:
    """The images of a share of a source's patients.

    Args:
        name: of the source, for messages.
        pool: the source.
        data: says which views are used.
        share: of the patients that have such a view.
        seed: of the draw.

    Raises:
        ConfigError: the share is no share, or the source is no manifest and so has no patients.
        DataError: a folder or shard cannot be read.
    """
    source, views = pool.source, data.views
    if pool.studies is not None:
        images_of = {
            study.study_id: [i.path for i in study.images if views is None or i.view in views]
            for study in pool.studies
        }
        there = [study for study in pool.studies if images_of[study.study_id]]
        studies = share_of_patients(there, share, seed)
        paths = [path for study in studies for path in images_of[study.study_id]]
        return Drawn(source, ImageFiles(paths, data.rendering), studies)
    if share != 1:
        raise ConfigError(
            "only a manifest knows its patients",
            where=f"sources.{name}",
            remedy="Make one, for example with `llava-rad data folder`",
        )
    if source.path.suffix == ".tar":
        return Drawn(source, TarShards(source.path, data.rendering), None)
    return Drawn(source, image_folder(source.path, data.rendering), None)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Nested settings as ``key=value``."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}={json.dumps(value)}"
