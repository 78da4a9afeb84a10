"""Findings text made from the labels of NIH ChestX-ray14.

Every sentence follows from a label and says no more than it does (:mod:`llava_rad.data.template`).
No severity, side or place is invented. Structures that the labels say nothing about are only called
normal when the label is ``No Finding``.
"""

from collections.abc import Collection

from llava_rad.data.template import Statement, compose
from llava_rad.errors import DataError

NO_FINDING = "No Finding"

_NORMAL = (
    (
        "The lungs are clear.",
        "Both lungs are clear.",
        "The lungs are well expanded and clear.",
        "No focal consolidation is seen.",
    ),
    (
        "There is no pleural effusion or pneumothorax.",
        "No pleural effusion or pneumothorax.",
        "No effusion or pneumothorax is seen.",
    ),
    (
        "The heart size is normal.",
        "Heart size is within normal limits.",
        "The cardiac silhouette is normal in size.",
    ),
)

_PRESENT = {
    "Cardiomegaly": (
        "The heart is enlarged.",
        "The cardiac silhouette is enlarged.",
        "There is cardiomegaly.",
    ),
    "Edema": (
        "There is pulmonary edema.",
        "Findings of pulmonary edema are present.",
        "Interstitial markings are increased, consistent with pulmonary edema.",
    ),
    "Consolidation": (
        "There is pulmonary consolidation.",
        "An area of consolidation is present.",
        "Airspace consolidation is seen.",
    ),
    "Pneumonia": (
        "There are airspace opacities consistent with pneumonia.",
        "Airspace opacity is present, consistent with pneumonia.",
        "There is an opacity in keeping with pneumonia.",
    ),
    "Infiltration": (
        "There is pulmonary infiltrate.",
        "Infiltrate is seen in the lungs.",
        "Hazy infiltrate is present.",
    ),
    "Atelectasis": (
        "There is atelectasis.",
        "Atelectasis is present.",
        "There are atelectatic changes.",
    ),
    "Nodule": (
        "A pulmonary nodule is present.",
        "There is a lung nodule.",
        "A nodular opacity is seen in the lung.",
    ),
    "Mass": (
        "A lung mass is present.",
        "There is a pulmonary mass.",
        "A mass is seen in the lung.",
    ),
    "Emphysema": (
        "There are emphysematous changes.",
        "Emphysema is present.",
        "The lungs are hyperinflated, consistent with emphysema.",
    ),
    "Fibrosis": (
        "There are fibrotic changes.",
        "Pulmonary fibrosis is present.",
        "Fibrotic scarring is seen.",
    ),
    "Effusion": (
        "There is a pleural effusion.",
        "Pleural effusion is present.",
        "Pleural fluid is seen.",
    ),
    "Pleural_Thickening": (
        "There is pleural thickening.",
        "Pleural thickening is present.",
        "The pleura is thickened.",
    ),
    "Pneumothorax": (
        "There is a pneumothorax.",
        "A pneumothorax is present.",
        "A pneumothorax is seen.",
    ),
    "Hernia": (
        "There is a hiatal hernia.",
        "A hiatal hernia is present.",
        "A hiatal hernia is seen.",
    ),
}

# Said when the label is absent from an abnormal study. The labels were mined from reports, so
# that an absent label is weak evidence; only the three findings that reports of abnormal
# radiographs regularly deny are denied here.
_ABSENT = {
    "Effusion": ("No pleural effusion.", "There is no pleural effusion."),
    "Pneumothorax": ("No pneumothorax.", "There is no pneumothorax."),
    "Cardiomegaly": ("The heart size is normal.", "Heart size is within normal limits."),
}

FINDING_LABELS = tuple(_PRESENT)


def sentence_of_label(label: str, text: str) -> str | None:
    """The sentence of a text by :func:`findings_from_labels` that says a label; None without."""
    return next((wording for wording in _PRESENT.get(label, ()) if wording in text), None)


def findings_from_labels(labels: Collection[str], study_id: str) -> str:
    """Findings text for the labels of one study.

    Args:
        labels: names from :data:`FINDING_LABELS`, or only :data:`NO_FINDING`.
        study_id: chooses the wording.

    Raises:
        DataError: a label is unknown, there is none, or ``No Finding`` stands beside another.
    """
    present = set(labels)
    unknown = sorted(present - set(FINDING_LABELS) - {NO_FINDING})
    if unknown or not present:
        raise DataError(
            f"label {unknown[0]!r} is unknown" if unknown else "the study has no label",
            where=study_id,
            remedy=f"Known labels: {', '.join((*FINDING_LABELS, NO_FINDING))}",
            kind="unknown_label" if unknown else "no_label",
        )
    if NO_FINDING in present:
        if len(present) > 1:
            raise DataError(
                f"{NO_FINDING!r} stands beside another label",
                where=study_id,
                kind="contradicting_labels",
            )
        statements: tuple[Statement, ...] = _NORMAL
    else:
        statements = tuple(_PRESENT[name] for name in FINDING_LABELS if name in present) + tuple(
            wordings for name, wordings in _ABSENT.items() if name not in present
        )
    return compose(statements, study_id)
