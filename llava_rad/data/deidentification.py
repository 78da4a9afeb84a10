"""The marks that de-identification left in reports: ``XXXX`` (Open-i), ``___`` (MIMIC-CXR).

They stand for removed words, but Open-i's also replaced ordinary ones ("x-XXXX", "There are no
XXXX of a pleural effusion"). A model that is trained on them writes them.
"""

import re

# Marks may be glued to what is left of a word ("53XXXX", "ComparisXXXX"): it goes with them.
# "<###>" and "!PERSONALNAME!" are CANDID-PTX's.
_MARK = r"(?:_{2,}|\bXXX\b|[^\W_]*X{4,}[^\W_]*(?:'s)?|<#+>|![A-Z]{4,}!)"
_MARKS = re.compile(rf"{_MARK}(?:[\s,;:/-]*{_MARK})*")
_X_RAY = re.compile(r"\b([Xx])[-\s]?X{4}\b")
_GAP = "\0"

# In order: what removed marks leave behind, once each run of marks is one gap.
_REPAIRS: tuple[tuple[re.Pattern[str], str], ...] = (
    # brackets with nothing but the gap in them
    (re.compile(rf"[(\[]\s*[,;.:/-]*\s*{_GAP}\s*[,;.:/-]*\s*[)\]]"), ""),
    # a gap that opens a sentence takes the comma behind it along
    (re.compile(rf"(^|[.!?]\s*){_GAP}[\s,;:/)-]*"), r"\1 "),
    (re.compile(_GAP), " "),
    (re.compile(r"\s+(?=[.,;:?!)])"), ""),
    (re.compile(r"[,;:]+\s*\."), "."),
    (re.compile(r"([.,;:])(?:\s*\1)+"), r"\1"),
    (re.compile(r"^[\s.,;:/)-]+"), ""),
)
_SENTENCE_START = re.compile(r"((?:^|[.!?]\s)\s*)([a-z])")


def remove_marks(text: str) -> str:
    """The text without marks, double spaces or the punctuation that they left behind.

    "x-XXXX" becomes "x-ray", the one word that can be told from its mark. A text that was only
    marks becomes empty.
    """
    text = _X_RAY.sub(r"\1-ray", " ".join(text.split()))
    text, marks = _MARKS.subn(_GAP, text)
    lower_case_starts = {match.end() for match in _SENTENCE_START.finditer(text)}
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    if marks and not lower_case_starts:
        # The report writes sentences with capitals; one whose first word went gets its own back.
        text = _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)
    return text if re.search(r"\w", text) else ""


def masked_share(text: str) -> float:
    """The share of words that are marks, from 0 to 1."""
    words = _X_RAY.sub(r"\1-ray", text).split()
    return sum(bool(_MARKS.search(word)) for word in words) / len(words) if words else 0.0
