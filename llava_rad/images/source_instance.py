"""What a DICOM file says of itself, its study and its patient, for documents that refer to it."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from llava_rad.images.content import HEAD_BYTES
from llava_rad.images.dicom import looks_like_dicom
from llava_rad.images.dicom_elements import read_header
from llava_rad.images.dicom_values import code_of, text_of, uid_of, value_of
from llava_rad.images.quiet import quiet_libraries

#: Elements that identify the patient, the study or its people.
IDENTIFYING = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_FURTHER = ("SpecificCharacterSet", "Modality", "PatientSex", "ViewPosition")
# What the values of each kind look like (PS3.5 6.2); others would make a document invalid.
_VALID = {
    "PN": r"[^\\]{1,194}",  # three groups of 64 characters
    "LO": r"[^\\]{1,64}",
    "SH": r"[^\\]{1,16}",
    "DA": r"[12]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
}


@dataclass(frozen=True)
class SourceInstance:
    """A DICOM image that a document can refer to.

    Attributes:
        sop_class: SOP Class UID.
        uid: SOP Instance UID.
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        modality: such as ``"DX"``, or None.
        view_position: such as ``"PA"``, or None.
        sex: Patient's Sex, ``"M"``, ``"F"``, ``"O"`` or None.
        identifying: the elements of :data:`IDENTIFYING` that are there, by keyword. They stay in
            memory; what leaves is up to the caller.
    """

    sop_class: str
    uid: str
    series_uid: str
    study_uid: str
    modality: str | None = None
    view_position: str | None = None
    sex: str | None = None
    identifying: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_source_instance(source: str | os.PathLike[str] | bytes) -> SourceInstance | None:
    """Read who a DICOM image is, without its pixels.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        The instance, or None where the file is not DICOM, cannot be read, or lacks one of the four
        UIDs that a reference needs.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file,
            quiet_libraries(),
        ):
            if not looks_like_dicom(file.read(HEAD_BYTES)):
                return None
            header = read_header(file, (*_UIDS, *_FURTHER, *IDENTIFYING))
            uids = [uid_of(header, keyword) for keyword in _UIDS]
            sop_class, uid, series_uid, study_uid = uids
            if sop_class is None or uid is None or series_uid is None or study_uid is None:
                return None
            sex = text_of(header, "PatientSex")
            values = {keyword: _identifier(header, keyword) for keyword in IDENTIFYING}
            return SourceInstance(
                sop_class,
                uid,
                series_uid,
                study_uid,
                modality=code_of(header, "Modality"),
                view_position=code_of(header, "ViewPosition"),
                sex=sex if sex in ("M", "F", "O") else None,
                identifying={keyword: value for keyword, value in values.items() if value},
            )
    except Exception:  # whatever the system and pydicom raise for a file that cannot be read
        return None


def _identifier(header: Dataset, keyword: str) -> str | None:
    value = str(value_of(header, keyword) or "").strip(" \0")
    valid = _VALID[dictionary_VR(keyword)]
    return value if value.isprintable() and re.fullmatch(valid, value) else None
