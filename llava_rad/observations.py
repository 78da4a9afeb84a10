"""The 14 observations of CheXpert (Irvin et al., AAAI 2019) and how a report can speak of them."""

from enum import IntEnum

OBSERVATIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
"""All 14, in CheXbert's order of heads."""

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The five of CheXpert's competition, in CheXbert's order."""


class Mention(IntEnum):
    """What a report says of one observation, with the numbers CheXbert's heads use."""

    BLANK = 0
    POSITIVE = 1
    NEGATIVE = 2
    UNCERTAIN = 3
