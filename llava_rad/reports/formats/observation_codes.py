"""SNOMED CT codes of observations, as DICOM's own dictionary (PS3.16) lists them.

An observation that DICOM does not list has no code here: it goes by its name.
"""

from pydicom.sr.coding import Code

_SNOMED = {
    "Cardiomegaly": Code("287272002", "SCT", "Cardiomegaly"),
    "Edema": Code("19242006", "SCT", "Pulmonary edema"),
    "Pleural Effusion": Code("60046008", "SCT", "Pleural effusion"),
    "Pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
}


def snomed_code(observation: str) -> Code | None:
    """The code of one of :data:`llava_rad.observations.OBSERVATIONS`, or None."""
    return _SNOMED.get(observation)
