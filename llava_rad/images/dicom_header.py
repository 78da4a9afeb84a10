"""What the header of a DICOM file says about the view, the scale and the kind of object."""

import re

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence

from llava_rad.images.dicom_values import (
    code_of,
    codes_of,
    elements_of,
    label,
    number_of,
    numbers_of,
    text_of,
    value_of,
)
from llava_rad.images.dicom_view import view_of_header
from llava_rad.images.radiograph import Notes
from llava_rad.views import view_of

_PROJECTION_MODALITIES = ("CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC")
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "TORAX")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# The words of view codes (CID 4010). Others are not handed on: Code Meaning is free text.
_VIEW_WORDS = re.compile(
    r"(left|right|antero|postero|anterior|posterior|anteroposterior|posteroanterior|frontal|"
    r"lateral|oblique|lordotic|apical|axial|medio|latero|decubitus|erect|supine|prone|projection|"
    r"view|to|[ ,/-])+",
    re.IGNORECASE,
)


def with_functional_groups(dataset: Dataset, frame: int) -> Dataset:
    """Return the header of one frame: what the functional groups of enhanced objects say of it.

    Their values go before the header's own (PS3.3 C.7.6.16).

    Args:
        dataset: of a whole file; returned as it is if it has no functional groups.
        frame: counted from 1.
    """
    shared = value_of(dataset, "SharedFunctionalGroupsSequence") or []
    each = value_of(dataset, "PerFrameFunctionalGroupsSequence") or []
    groups = [*shared[:1], *each[frame - 1 : frame]]
    if not groups:
        return dataset
    elements = elements_of(dataset)
    for group in groups:
        for tag in elements_of(group):
            macro = value_of(group, tag)
            if isinstance(macro, Sequence) and macro:
                elements |= elements_of(macro[0])
    merged = Dataset(elements)
    implicit, little = dataset.original_encoding
    merged.set_original_encoding(implicit, little, dataset.original_character_set)
    return merged


def view_and_position(dataset: Dataset, notes: Notes) -> tuple[str, str | None]:
    """Return what the view is and the file's word for it."""
    position = text_of(dataset, "ViewPosition")
    codes = value_of(dataset, "ViewCodeSequence")
    meaning = text_of(codes[0], "CodeMeaning") if codes else None
    stated, coded = view_of(position), view_of(meaning)
    if "unknown" not in (stated, coded) and stated != coded:
        notes.warn("view", f"View Position says {stated}, View Code says {coded}")
    view = view_of_header(
        position,
        meaning,
        codes_of(dataset, "PatientOrientation"),
        text_of(dataset, "SeriesDescription"),
    )
    word = code_of(dataset, "ViewPosition")
    if word is None and meaning and _VIEW_WORDS.fullmatch(meaning):
        word = meaning
    return view, word


def laterality_of(dataset: Dataset) -> str | None:
    """Return the side that was imaged: ``"L"``, ``"R"``, ``"B"``, or None."""
    for keyword in ("ImageLaterality", "Laterality"):
        side = text_of(dataset, keyword)
        if side and side.upper() in ("L", "R", "B"):
            return side.upper()
    return None


def pixel_spacing_of(dataset: Dataset, notes: Notes) -> tuple[float, float] | None:
    """Return the spacing in the patient if calibrated, else at the detector or on the film."""
    for keyword in _SPACINGS:
        spacing = numbers_of(dataset, keyword)
        if len(spacing) == 2 and all(0 < number < np.inf for number in spacing):
            notes.facts["pixel_spacing_from"] = keyword
            return spacing[0], spacing[1]
    return None


def pixel_ratio_of(dataset: Dataset, spacing: tuple[float, float] | None) -> float:
    """Return the height of a pixel by its width, 1 if nothing is said of it."""
    height, width = spacing or [*numbers_of(dataset, "PixelAspectRatio"), 0, 0][:2]
    return height / width if 0 < height < np.inf and 0 < width < np.inf else 1.0


def warn_of_unfit_objects(dataset: Dataset, view: str, notes: Notes) -> None:
    """Warn of objects that load well and still are not what a report model expects."""
    modality = code_of(dataset, "Modality")
    if modality is None and value_of(dataset, "Modality") is not None:
        notes.warn("modality", f"{label('Modality')} is no code, it cannot be read")
    if modality and modality.upper() not in _PROJECTION_MODALITIES:
        notes.warn("modality", f"Modality is {modality}, not projection radiography")
    part = text_of(dataset, "BodyPartExamined")
    if part and not any(word in part.upper() for word in _CHEST_WORDS):
        name = code_of(dataset, "BodyPartExamined") or "another"
        notes.warn("body_part", f"Body Part Examined is {name}, not the chest")
    if (text_of(dataset, "PresentationIntentType") or "").upper() == "FOR PROCESSING":
        notes.warn("for_processing", "detector data that were not processed for display")
    orientation = text_of(dataset, "PatientOrientation")
    if view == "frontal" and orientation and orientation.upper().startswith("R"):
        notes.warn(
            "mirrored",
            "Patient Orientation says that the patient's right is on the right of the picture; "
            "it was not turned",
        )


def presentation_value_of(dataset: Dataset) -> int:
    """Return the gray, 0 to 255, that a shutter is shown in; black unless the file says other."""
    value = number_of(dataset, "ShutterPresentationValue")
    return round(255 * value / 65535) if value is not None and 0 <= value <= 65535 else 0
