"""What the writers of all formats are given: a report, and what else a document says.

Nothing in it names a patient unless that was asked for: studies and patients have the names that
:mod:`llava_rad.data.identifiers` makes, images are called ``image 1``, and files are not named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from llava_rad.data import Study
from llava_rad.data.dicom_studies import names_nobody
from llava_rad.data.identifiers import Identifiers
from llava_rad.images import load_radiograph
from llava_rad.images.radiograph import Rendering
from llava_rad.images.source_instance import SourceInstance, read_source_instance
from llava_rad.model import ReportModel
from llava_rad.names import escape_name, one_line
from llava_rad.reports import Report
from llava_rad.reports.model_facts import ModelFacts
from llava_rad.reports.report import CAUTION

UNVERIFIED = "Written by a model; not verified by a radiologist."


@dataclass(frozen=True)
class DocumentImage:
    """An image that the model was shown.

    Attributes:
        name: what documents call it, such as ``"image 1"``.
        role: what it was shown as, such as ``"current_frontal"``.
        source: its path, or the bytes of its file.
        instance: who it is in DICOM; None where it is no DICOM file or lacks its identifiers.
    """

    name: str
    role: str
    source: str | bytes
    instance: SourceInstance | None

    @property
    def caption(self) -> str:
        """Such as ``image 1: current frontal (PA)``."""
        view = self.instance.view_position if self.instance else None
        return f"{self.name}: {self.role.replace('_', ' ')}" + (f" ({view})" if view else "")


@dataclass(frozen=True)
class ReportDocument:
    """A report with all that a document says beside it.

    Attributes:
        report: as the model wrote it; its paths and warnings may name files.
        images: that the model was shown, in the order of the report.
        findings: the text without control characters, or ``"(no text)"``.
        indication: why the study was made, or None.
        warnings: of the report, files called ``image 1`` ...
        study_name: pseudonymous, or the Study Instance UID where identifiers are kept.
        patient_name: pseudonymous, or the Patient ID where identifiers are kept.
        identifiers_kept: whether the document may name the patient.
        model_hash: of the model's folder; None for a model made in memory.
        rendering: how the model's pictures are rendered.
        frame: which picture was read of files that hold several.
        written: when, with its time zone.
    """

    report: Report
    images: tuple[DocumentImage, ...]
    findings: str
    indication: str | None
    warnings: tuple[str, ...]
    study_name: str
    patient_name: str
    identifiers_kept: bool
    model_hash: str | None
    rendering: Rendering
    frame: int | None
    written: datetime

    @property
    def current(self) -> tuple[DocumentImage, ...]:
        """The images of the study itself, not of the one before."""
        return tuple(image for image in self.images if not image.role.startswith("prior"))

    @property
    def unverified(self) -> str:
        """What stands beside the disclaimer, before the findings."""
        return " ".join([CAUTION] * self.report.unlike_training + [UNVERIFIED])

    @property
    def notes(self) -> list[str]:
        """What a reader must know of this text: cut off, repetitive, and the warnings."""
        notes = ["The text was cut off at its longest length."] * self.report.truncated
        notes += ["The text repeats itself; do not rely on it."] * self.report.repetitive
        return [*notes, *self.warnings]

    @property
    def model(self) -> str:
        """Name and hash of the model, such as ``llava-rad-mini 0123456789ab``."""
        return f"{self.report.model} {(self.model_hash or '')[:12]}".strip()

    def picture(self, image: DocumentImage) -> NDArray[np.uint8]:
        """One of its images as the model was shown it, uint8 [height, width].

        Raises:
            ImageError: it cannot be read any more.
        """
        return load_radiograph(image.source, rendering=self.rendering, frame=self.frame).pixels


def report_document(
    report: Report,
    study: Study,
    model: ReportModel | ModelFacts,
    *,
    identifiers: Identifiers | None = None,
    contents: Mapping[str, bytes] | None = None,
    frame: int | None = None,
    written: datetime | None = None,
) -> ReportDocument:
    """Gather what a document says of a report.

    Args:
        report: of the study.
        study: that was reported on.
        model: that wrote it, or what is known of it.
        identifiers: make the names of study and patient; those that keep let a document name the
            patient. None makes new pseudonyms.
        contents: of images that are in memory, by path.
        frame: which picture was read of files that hold several.
        written: when; None is now.
    """
    identifiers = identifiers or Identifiers()
    contents = contents or {}
    sources = [contents.get(path, path) for path in report.images]
    images = tuple(
        DocumentImage(f"image {number}", role, source, read_source_instance(source))
        for number, (role, source) in enumerate(zip(report.roles, sources, strict=True), 1)
    )
    current = [image.instance for image in images if not image.role.startswith("prior")]
    instance = next((found for found in current if found is not None), None)
    patient = (instance.identifying.get("PatientID") if instance else None) or ""
    numbered = {path: image.name for path, image in zip(report.images, images, strict=True)}
    others = [path for path in _paths(study) if path not in numbered]
    numbered |= {path: f"image {len(images) + n}" for n, path in enumerate(others, 1)}
    lines = [one_line(line) for line in report.findings.splitlines()]
    return ReportDocument(
        report=report,
        images=images,
        findings="\n".join(lines).strip() or "(no text)",
        indication=one_line(study.indication) if study.indication else None,
        warnings=tuple(_without_paths(warning, numbered) for warning in report.warnings),
        study_name=identifiers.study(instance.study_uid if instance else study.study_id),
        patient_name=identifiers.patient(study.patient_id if names_nobody(patient) else patient),
        identifiers_kept=identifiers.keep,
        model_hash=model.folder_hash,
        rendering=ModelFacts.of(model).rendering,
        frame=frame,
        written=(written or datetime.now(UTC)).astimezone(),
    )


def _paths(study: Study) -> list[str]:
    images = (*study.images, *(study.prior.images if study.prior else ()))
    return [image.path for image in images]


def _without_paths(text: str, names: Mapping[str, str]) -> str:
    """A warning that calls files by their numbers; longer paths first, one may hold another."""
    for path in sorted(names, key=len, reverse=True):
        for spelling in {path, escape_name(path)}:
            text = re.sub(rf"(?<![\w/.\\-]){re.escape(spelling)}(?![\w/\\-])", names[path], text)
    return one_line(text)
