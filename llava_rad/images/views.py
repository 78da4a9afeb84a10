"""The words for a view, and the three views that the rest of the project tells apart."""

import re

_FRONTAL = {"PA", "AP", "FRONTAL", "POSTEROANTERIOR", "ANTEROPOSTERIOR", "LORDOTIC"}
_LATERAL = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}
_OBLIQUE = {"OBLIQUE", "OBL", "OBLICUA", "LAO", "RAO", "LPO", "RPO", "LLO", "RLO"}
# Lying on one side: the beam is horizontal and nearly always frontal, whatever the word "lateral"
# in the name says. Without PA or AP beside it the projection is not stated.
_DECUBITUS = {"DECUBITUS", "DECUB", "LLD", "RLD"}


def view_of(text: str | None) -> str:
    """Return the view that a view position or projection name stands for.

    Understands the defined terms of DICOM View Position (0018,5101), the meanings of DICOM
    View Codes (CID 4010) and the spellings of the public chest X-ray data sets: ``"PA"``,
    ``"AP SUPINE"``, ``"AP_horizontal"``, ``"postero-anterior"``, ``"LL"``, ``"L"``,
    ``"XTABLE LATERAL"``, ``"PA LLD"``.

    Args:
        text: the words of the file or table; None and empty text are allowed.

    Returns:
        ``"frontal"``, ``"lateral"``, or ``"unknown"`` for everything that is neither, both,
        oblique, or not said.
    """
    words = re.sub(r"(POSTERO|ANTERO|POSTERIOR|ANTERIOR)[\s_-]+", r"\1", str(text or "").upper())
    words = words.replace("POSTERIORANTERIOR", "POSTEROANTERIOR")
    words = words.replace("ANTERIORPOSTERIOR", "ANTEROPOSTERIOR")
    tokens = set(re.findall(r"[A-Z]+", words.replace(".", "")))
    if tokens & _OBLIQUE:
        return "unknown"
    frontal = bool(tokens & _FRONTAL)
    lateral = bool(tokens & _LATERAL or tokens == {"L"}) and not tokens & _DECUBITUS
    if frontal == lateral:
        return "unknown"
    return "frontal" if frontal else "lateral"
