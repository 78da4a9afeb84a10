"""SNOMED CT codes of observations, as DICOM's own dictionary (PS3.16) lists them.

An observation that DICOM does not list has no code here: it goes by its name.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

_SNOMED = {
    "Cardiomegaly": ("287272002", "SCT", "Cardiomegaly"),
    "Edema": ("19242006", "SCT", "Pulmonary edema"),
    "Pleural Effusion": ("60046008", "SCT", "Pleural effusion"),
    "Pneumothorax": ("36118008", "SCT", "Pneumothorax"),
}


def snomed_code(observation: str) -> "Code | None":
    """The code of one of :data:`llava_rad.observations.OBSERVATIONS`, or None."""
    from pydicom.sr.coding import Code  # with all of DICOM's dictionary of codes

    found = _SNOMED.get(observation)
    return None if found is None else Code(*found)
