"""What the header of a DICOM file says about the view, the scale and the kind of object."""

import numpy as np
import pydicom
from pydicom import Dataset

from llava_rad.images.radiograph import Notes
from llava_rad.images.views import view_of

_PROJECTION_MODALITIES = ("CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC")
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "TORAX")


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of an element as a number, None if there is none."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue | list | tuple):
            value = value[0] if len(value) else None
        return None if value is None or value == "" else float(value)
    except (ValueError, TypeError, OverflowError):
        return None


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """Return the first value of an element as text without blanks, None if there is none."""
    value = dataset.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    return str(value).strip() or None if value is not None else None


def view_and_position(dataset: Dataset, notes: Notes) -> tuple[str, str | None]:
    """Return what the view is and the file's word for it."""
    position = text_of(dataset, "ViewPosition")
    codes = dataset.get("ViewCodeSequence")
    meaning = text_of(codes[0], "CodeMeaning") if codes else None
    stated, coded = view_of(position), view_of(meaning)
    if "unknown" not in (stated, coded) and stated != coded:
        notes.warn("view", f"View Position says {position}, View Code says {meaning}")
        return "unknown", position
    if stated == "unknown" and coded != "unknown":
        return coded, position or meaning
    return stated, position or meaning


def pixel_spacing_of(dataset: Dataset, notes: Notes) -> tuple[float, float] | None:
    """Return the spacing in the patient if calibrated, else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            row, column = (float(number) for number in dataset.get(keyword) or ())
        except (ValueError, TypeError):
            continue
        if 0 < row < np.inf and 0 < column < np.inf:
            notes.facts["pixel_spacing_from"] = keyword
            return row, column
    return None


def warn_of_unfit_objects(dataset: Dataset, view: str, notes: Notes) -> None:
    """Warn of objects that load well and still are not what a report model expects."""
    modality = text_of(dataset, "Modality")
    if modality and modality.upper() not in _PROJECTION_MODALITIES:
        notes.warn("modality", f"Modality is {modality}, not projection radiography")
    part = text_of(dataset, "BodyPartExamined")
    if part and not any(word in part.upper() for word in _CHEST_WORDS):
        notes.warn("body_part", f"Body Part Examined is {part}, not the chest")
    if (text_of(dataset, "PresentationIntentType") or "").upper() == "FOR PROCESSING":
        notes.warn("for_processing", "detector data that were not processed for display")
    orientation = dataset.get("PatientOrientation")
    if view == "frontal" and orientation and str(orientation[0]).upper().startswith("R"):
        notes.warn(
            "mirrored",
            "Patient Orientation says that the patient's right is on the right of the picture; "
            "it was not turned",
        )
