"""The images that a probe learns from and is tested on, with what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_rad.data import Study, StudyImage, check_studies, hold_out, load_manifest
from llava_rad.data.shared_patients import patients_of
from llava_rad.errors import ConfigError, DataError

VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class Example:
    """One image.

    Attributes:
        study: the study it belongs to.
        image: its file and view.
    """

    study: Study
    image: StudyImage

    @property
    def path(self) -> str:
        """Its file."""
        return self.image.path

    @property
    def patient(self) -> str:
        """The patient's id; with several manifests, the data set's name is part of it."""
        return self.study.patient_id


@dataclass(frozen=True)
class Examples:
    """Training, validation and test images, split by patient.

    Attributes:
        train: probes are fitted to these.
        validation: settings are chosen on these.
        test: numbers are made of these.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def all(self) -> tuple[Example, ...]:
        """All three, in this order."""
        return self.train + self.validation + self.test

    def __str__(self) -> str:
        return ", ".join(
            f"{len(part)} {name} images of {len({e.patient for e in part})} patients"
            for name, part in (
                ("training", self.train),
                ("validation", self.validation),
                ("test", self.test),
            )
        )


def read_examples(manifests: Sequence[Path | str], views: Sequence[str] = ()) -> Examples:
    """Read the images of one or several manifests.

    Args:
        manifests: whose splits are kept. Where one has no validation split, 15 % of its training
            patients become one, by a hash of their ids.
        views: images of these views; all of them if empty.

    Raises:
        ConfigError: there is no such view.
        DataError: a manifest cannot be read or has no test or training split, no image is left,
            a study is in two of the manifests, or a patient in two splits.
    """
    unknown = [view for view in views if view not in ("frontal", "lateral", "unknown")]
    if unknown:
        raise ConfigError(
            f"there is no view {unknown[0]!r}",
            where="views",
            remedy="Use frontal, lateral or unknown",
        )
    studies: list[Study] = []
    for manifest in manifests:
        loaded = load_manifest(manifest)
        splits = {study.split for study in loaded}
        if "validation" not in splits:
            loaded = hold_out(loaded, validation=VALIDATION_SHARE)
        missing = {"train", "test"} - splits
        if missing:
            raise DataError(
                f"no study has split {' or '.join(sorted(missing))!r}",
                where=manifest,
                remedy="Make the manifest with a share of patients held out as the test, such as "
                "`llava-rad data ... --test 0.2`",
                kind="no_split",
            )
        if len(manifests) > 1:
            loaded = [_named_apart(study) for study in loaded]
        studies += loaded
    check_studies(studies, where=", ".join(map(str, manifests)))
    parts: dict[str | None, list[Example]] = {"train": [], "validation": [], "test": []}
    for study in studies:
        for image in study.images:
            if not views or image.view in views:
                parts.setdefault(study.split, []).append(Example(study, image))
    for name in ("train", "validation", "test"):
        if not parts[name]:
            of_view = f" of view {' or '.join(views)}" if views else ""
            raise DataError(
                f"the {name} split has no image{of_view}",
                where=", ".join(map(str, manifests)),
                remedy="Leave the views out to use all images"
                if views
                else "Make the manifest with a larger share of patients held out",
                kind="no_images",
            )
    return Examples(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def _named_apart(study: Study) -> Study:
    """The study under ids that no other data set uses, unless for the same patient."""
    source = study.source or "unnamed"
    return replace(
        study,
        study_id=f"{source}:{study.study_id}",
        patient_id=f"{patients_of(source)}:{study.patient_id}",
    )
