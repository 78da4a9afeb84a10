"""One study: what a patient's images, their context and the report about them are called."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from llava_rad.data.finding_box import FindingBox
from llava_rad.errors import DataError, shown
from llava_rad.names import plain_text
from llava_rad.views import View

Split = Literal["train", "validation", "test"]

VIEWS: tuple[str, ...] = get_args(View)
SPLITS: tuple[str, ...] = get_args(Split)


_OLDEST = 150  # years; more is a typing error or another unit
_TEXTS = ("indication", "technique", "comparison", "findings", "impression", "sex", "source")
_set = object.__setattr__


@dataclass(frozen=True)
class StudyImage:
    """One image of a study.

    Attributes:
        path: the file, absolute or relative to the working folder. In a manifest it is relative
            to the manifest's folder; :func:`llava_rad.data.load_manifest` resolves it.
        view: the view as a report generator needs it.
        view_position: the data set's own word for it, such as ``"PA"`` or ``"AP SUPINE"``.
        masks: structure, such as ``"lungs"`` or ``"heart"``, to a file of the image's size whose
            pixels are not 0 inside it, or to rows of a table of run lengths
            (:mod:`llava_rad.data.mask_rows`); resolved like ``path``.
        boxes: findings with their places on this image.

    Raises:
        DataError: a value is of another kind.

    Example:
        >>> llava_rad.StudyImage("scan.png", view="lateral").view
        'lateral'
    """

    path: str
    view: View = "unknown"
    view_position: str | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    boxes: tuple[FindingBox, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise DataError("an image has no path", kind="no_image_path")
        if "\0" in self.path:
            raise DataError(
                f"an image's path is {shown(self.path)}",
                remedy="Give a path without NUL characters",
                kind="bad_path",
            )
        if self.view not in VIEWS:
            raise DataError(
                f"view is {shown(self.view)}",
                where=self.path,
                remedy=f"Use one of {', '.join(VIEWS)}",
                kind="bad_view",
            )
        _set(self, "view_position", _text(self.view_position, "view_position"))
        for structure, file in self.masks.items():
            _required(structure, "a mask's structure", self.path)
            _required(file, f"the mask of {structure}", self.path)
        _set(self, "masks", dict(self.masks))
        _set(self, "boxes", tuple(self.boxes))
        for box in self.boxes:
            if not isinstance(box, FindingBox):
                raise DataError(
                    f"a box is {shown(box)}",
                    where=self.path,
                    remedy="Give a FindingBox",
                    kind="bad_box",
                )


@dataclass(frozen=True)
class PriorStudy:
    """The study of the same patient that came right before, chosen by date.

    Attributes:
        study_id: its id.
        images: its images.
        findings: its findings text, or None.
    """

    study_id: str
    images: tuple[StudyImage, ...] = ()
    findings: str | None = None

    def __post_init__(self) -> None:
        _required(self.study_id, "the prior's study_id")
        _set(self, "images", tuple(self.images))
        _set(self, "findings", _text(self.findings, "the prior's findings"))


@dataclass(frozen=True)
class Study:
    """One study of one patient. A text that is absent is None, never an empty string.

    Attributes:
        study_id: unique within a manifest.
        patient_id: names the patient; no patient may be in two splits.
        split: the official split of the data set, or None where there is none.
        images: the study's images; frontal views come first where the data set knows them.
        indication: why the study was made.
        technique: how it was made.
        comparison: what the radiologist compared it with.
        prior: the patient's study before this one, or None.
        findings: what is seen.
        impression: the radiologist's conclusion.
        labels: label name to 1.0 (present), 0.0 (absent), -1.0 (uncertain) or None (not stated).
        sex: ``"M"``, ``"F"`` or None.
        age: years, or None.
        source: the data set it comes from, and how its text was made where it is no report.
        language: ISO 639-1 code of the texts.
        extra: further facts by name, each a text (dates, MeSH terms, licences ...).

    Raises:
        DataError: a value is of another kind or out of its range.

    Example:
        >>> images = (llava_rad.StudyImage("chest.dcm", view="frontal"),)
        >>> study = llava_rad.Study("s1", "p1", images=images, indication="cough")
        >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
        >>> model.report(study, settings=short).study_id
        's1'
    """

    study_id: str
    patient_id: str
    split: Split | None = None
    images: tuple[StudyImage, ...] = ()
    indication: str | None = None
    technique: str | None = None
    comparison: str | None = None
    prior: PriorStudy | None = None
    findings: str | None = None
    impression: str | None = None
    labels: Mapping[str, float | None] = field(default_factory=dict)
    sex: str | None = None
    age: float | None = None
    source: str | None = None
    language: str = "en"
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _required(self.study_id, "study_id")
        _required(self.patient_id, "patient_id", self.study_id)
        if self.split is not None and self.split not in SPLITS:
            raise DataError(
                f"split is {shown(self.split)}",
                where=self.study_id,
                remedy=f"Use one of {', '.join(SPLITS)}, or leave it out",
                kind="bad_split",
            )
        for name in ("study_id", "patient_id"):
            _set(self, name, plain_text(getattr(self, name)))
        _set(self, "images", tuple(self.images))
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None:
                _set(self, name, _text(value, name, self.study_id))
        _required(self.language, "language", self.study_id)
        if self.sex not in (None, "M", "F"):
            raise DataError(
                f"sex is {shown(self.sex)}",
                where=self.study_id,
                remedy="Use M, F, or leave it out",
                kind="bad_sex",
            )
        if self.age is not None:
            age = _number(self.age, "age", self.study_id)
            if not 0 <= age <= _OLDEST:
                raise DataError(
                    f"age is {shown(self.age)}",
                    where=self.study_id,
                    remedy=f"Give years from 0 to {_OLDEST}, or leave it out",
                    kind="bad_age",
                )
            _set(self, "age", age)
        labels = {
            name: value
            if value is None or (type(value) is float and isfinite(value))
            else _number(value, f"label {name!r}", self.study_id)
            for name, value in self.labels.items()
        }
        _set(self, "labels", labels)
        for name, value in self.extra.items():
            if not isinstance(value, str):
                raise DataError(
                    f"extra {name!r} is {shown(value)}",
                    where=self.study_id,
                    remedy="Give it as a text",
                )
        _set(self, "extra", dict(self.extra))


def _required(value: object, name: str, where: str | None = None) -> None:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} is {shown(value)}", where=where, remedy="Give it as a text")


def _text(value: object, name: str, where: str | None = None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{name} is {shown(value)}", where=where, remedy="Give it as a text")
    return value.strip() or None


def _number(value: object, name: str, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= sys.float_info.max
    ):
        raise DataError(f"{name} is {shown(value)}", where=where, remedy="Give it as a number")
    return float(value)
