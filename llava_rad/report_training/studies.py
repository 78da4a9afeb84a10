"""The studies of a run: those learnt from and those validated on, with their texts."""

from dataclasses import dataclass, field

from llava_rad.data import Study, hash_manifest, load_manifest
from llava_rad.data.targets import select_targets
from llava_rad.errors import DataError
from llava_rad.report_training.config import DataConfig


@dataclass
class Split:
    """Studies of one split.

    Attributes:
        studies: each with a text.
        texts: what is learnt.
        weights: how often each is drawn in an epoch.
        boxes: whether each sentence is learnt with the boxes of its findings.
    """

    studies: list[Study] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    boxes: bool = False

    def __len__(self) -> int:
        return len(self.studies)


@dataclass
class RunStudies:
    """What the manifests of a run hold.

    Attributes:
        train: studies learnt from.
        validation: studies validated on; may be empty.
        hashes: hash of each manifest by file name.
        left_out: reason to ids of studies without a text.
    """

    train: Split = field(default_factory=Split)
    validation: Split = field(default_factory=Split)
    hashes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def image_files(self) -> list[str]:
        """All image files of the studies, each once, in their order."""
        files: dict[str, None] = {}
        for study in (*self.train.studies, *self.validation.studies):
            prior = study.prior.images if study.prior else ()
            files.update((str(image.path), None) for image in (*study.images, *prior))
        return list(files)

    def summary(self) -> str:
        """One line for the log."""
        left_out = ", ".join(f"{reason}: {len(ids)}" for reason, ids in self.left_out.items())
        return f"{len(self.train)} to learn from, {len(self.validation)} to validate on" + (
            f"; left out, {left_out}" if left_out else ""
        )


def load_studies(config: DataConfig) -> RunStudies:
    """Read the manifests.

    Raises:
        DataError: a manifest is wrong, or there is nothing to learn from.
    """
    found = RunStudies(Split(boxes=config.boxes), Split(boxes=config.boxes))
    for source in config.sources:
        found.hashes[source.path.name] = hash_manifest(source.path)
        manifest = load_manifest(source.path, root=source.root)
        for name, split in (("train", found.train), ("validation", found.validation)):
            of_split = [study for study in manifest if study.split == name]
            if not of_split:
                continue
            chosen = select_targets(
                of_split,
                section=config.section,
                fallback=config.fallback,
                use_joint_sections=config.use_joint_sections,
                drop_prior_comparisons=config.drop_prior_comparisons,
                leave_out_addenda=config.leave_out_addenda,
            )
            split.studies += chosen.studies
            split.texts += chosen.texts
            split.weights += [source.weight] * len(chosen.studies)
            for reason, ids in chosen.left_out.items():
                found.left_out.setdefault(reason, []).extend(ids)
    if not found.train.studies:
        raise DataError(
            "there is no study to learn from",
            where=", ".join(found.hashes) or "data.sources",
            remedy="Give manifests with a train split, as data.sources=nih.jsonl",
            kind="no_train_split",
        )
    return found
