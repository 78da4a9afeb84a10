"""The words for a view, and the three views that the rest of the project tells apart."""

import functools
import re
from typing import Literal

View = Literal["frontal", "lateral", "unknown"]

# fmt: off
_FRONTAL = {
    "PA", "AP", "FRONTAL", "FRONTALE", "FRENTE", "POSTEROANTERIOR", "ANTEROPOSTERIOR", "LORDOTIC",
    "APICOLORDOTIC", "APICAL",
}
_LATERAL = {
    "LL", "RL", "LAT", "LATS", "LATERAL", "LATERALE", "LATERALIS", "LLAT", "RLAT", "LTLAT", "RTLAT",
    "LATL", "LATR", "XTLAT", "XTABLELAT", "PROFIL", "PERFIL", "SEITLICH", "SEITL",
}
_OBLIQUE = {
    "OBLIQUE", "OBLIQUES", "OBL", "OBLICUA", "OBLIQUA", "SCHRAEG", "LAO", "RAO", "LPO", "RPO",
    "LLO", "RLO",
}
# fmt: on
# Lying on one side: the beam is horizontal and nearly always frontal, whatever the word "lateral"
# in the name says. Without PA or AP beside it the projection is not stated.
_DECUBITUS = {"DECUBITUS", "DECUBITI", "DECUBITO", "DECUB", "DECUBS", "DEC", "LLD", "RLD"}
# Lying on the back or on the belly: "dorsal decubitus lateral" is a cross-table lateral.
_ON_BACK_OR_BELLY = {"DORSAL", "VENTRAL"}
# Neither of the chest's standard views, whatever stands beside them.
_OTHER = {"SWIMMER", "SWIMMERS", "CORONAL", "SAGITTAL"}
# At the bedside and lying on the back, chests are taken front to back unless it says otherwise.
_FRONTAL_UNLESS_SAID = {"PORTABLE", "PORT", "MOBILE", "BEDSIDE", "SUPINE", "LIEGEND"}

# Words that are written without a space after PA or AP, such as "APSUPINE" or "PALAT".
_GLUED = re.compile(
    r"^(AP|PA)(LAT|LATERAL|SUPINE|ERECT|UPRIGHT|PORTABLE|PORT|MOBILE|SITTING|SEMIERECT|STANDING"
    r"|LORDOTIC|AXIAL|VIEW|CHEST|CXR|LLD|RLD|DECUB|DECUBITUS|OBL|OBLIQUE|HORIZONTAL)$"
)


@functools.lru_cache(maxsize=1024)
def view_of(text: str | None) -> View:
    """Return the view that a view position or projection name stands for.

    Understands the defined terms of DICOM View Position (0018,5101), the meanings of DICOM
    View Codes (CID 4010) and the spellings of tables and public chest X-ray data sets: ``"PA"``,
    ``"P.A."``, ``"AP SUPINE"``, ``"Mobile AP erect"``, ``"AP_horizontal"``,
    ``"postero-anterior"``, ``"portable"``, ``"LL"``, ``"L"``, ``"LLAT"``, ``"XTABLE LATERAL"``,
    ``"PA LLD"``.

    Args:
        text: the words of the file or table; None and empty text are allowed.

    Returns:
        ``"frontal"``, ``"lateral"``, or ``"unknown"`` for everything that is neither, both
        (``"PA and lateral"``), oblique, or not said. A decubitus view is frontal where PA or AP
        stands beside it, and otherwise unknown.
    """
    # "ApSupine" is two words; so is "view1_frontal".
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(text or "")[:200]).upper()
    words = words.replace("Ü", "UE").replace("Ä", "AE").replace("Ú", "U").replace("Í", "I")
    words = re.sub(r"POSTER(?:O|IO|IOR|IORO)[\s_-]*ANTERIOR", "POSTEROANTERIOR", words)
    words = re.sub(r"ANTER(?:O|IO|IOR|IORO)[\s_-]*POSTERIOR", "ANTEROPOSTERIOR", words)
    # P.A., P-A, A/P, L.L.: two letters with a sign or a space between are one word.
    words = re.sub(r"(?<![A-Z])([PALR])[\s._/-]{1,2}([AP]|L)(?![A-Z])", _letters, words)
    tokens: set[str] = set()
    for token in re.findall(r"[A-Z]+", words.replace(".", " ")):
        glued = _GLUED.match(token)
        tokens.update(glued.groups() if glued else (token,))
    if tokens & _OBLIQUE or tokens & _OTHER:
        return "unknown"
    frontal = bool(tokens & _FRONTAL)
    lateral = bool(tokens & _LATERAL) or tokens == {"L"}
    if tokens & _DECUBITUS:
        lateral = lateral and bool(tokens & _ON_BACK_OR_BELLY)
    elif not frontal and not lateral:
        frontal = bool(tokens & _FRONTAL_UNLESS_SAID)
    if frontal == lateral:
        return "unknown"
    return "frontal" if frontal else "lateral"


def _letters(match: re.Match[str]) -> str:
    """``"P.A"`` as ``"PA"``; letters that name no view together stay apart."""
    word = match[1] + match[2]
    return word if word in ("PA", "AP", "LL", "RL") else match[0]
