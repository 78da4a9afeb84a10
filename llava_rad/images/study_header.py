"""What a DICOM file says of the study, the patient and the view, read without its pixels."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from llava_rad.images.content import HEAD_BYTES
from llava_rad.images.dicom import looks_like_dicom
from llava_rad.images.dicom_elements import read_header
from llava_rad.images.dicom_values import code_of, codes_of, text_of, value_of
from llava_rad.images.dicom_view import view_of_header
from llava_rad.images.quiet import quiet_libraries

_KEYWORDS = (
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "SeriesDescription",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
)


@dataclass(frozen=True)
class StudyHeader:
    """The header's words, as they are there; None or ``"unknown"`` where nothing is said.

    These identify a patient: they stay in memory, and what leaves is up to the caller.

    Attributes:
        study_uid: Study Instance UID.
        patient_id: Patient ID.
        view: ``"frontal"``, ``"lateral"`` or ``"unknown"``.
        view_position: the file's word for the view.
        sex: Patient's Sex.
        age: Patient's Age, such as ``"058Y"``.
        birth_date: ``YYYYMMDD``.
        study_date: ``YYYYMMDD``.
        study_time: ``HHMMSS`` with or without a fraction.
    """

    study_uid: str | None = None
    patient_id: str | None = None
    view: str = "unknown"
    view_position: str | None = None
    sex: str | None = None
    age: str | None = None
    birth_date: str | None = None
    study_date: str | None = None
    study_time: str | None = None


def read_study_header(source: str | os.PathLike[str] | bytes) -> StudyHeader | None:
    """Read the header of a file.

    Elements that cannot be read count as absent. Pixels are not looked at, so a file whose picture
    is damaged still has its study.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        What it says, or None if the file is not DICOM or nothing of it can be read.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file,
            quiet_libraries(),
        ):
            head = file.read(HEAD_BYTES)
            if not looks_like_dicom(head):
                return None
            dataset = read_header(file, _KEYWORDS)
            return StudyHeader(
                study_uid=text_of(dataset, "StudyInstanceUID"),
                patient_id=text_of(dataset, "PatientID"),
                view=_view(dataset),
                view_position=code_of(dataset, "ViewPosition"),
                sex=text_of(dataset, "PatientSex"),
                age=text_of(dataset, "PatientAge"),
                birth_date=text_of(dataset, "PatientBirthDate"),
                study_date=text_of(dataset, "StudyDate"),
                study_time=text_of(dataset, "StudyTime"),
            )
    except Exception:  # whatever the system and pydicom raise for a file that cannot be read
        return None


def _view(dataset: Dataset) -> str:
    codes = value_of(dataset, "ViewCodeSequence")
    return view_of_header(
        text_of(dataset, "ViewPosition"),
        text_of(codes[0], "CodeMeaning") if codes else None,
        codes_of(dataset, "PatientOrientation"),
        text_of(dataset, "SeriesDescription"),
    )
