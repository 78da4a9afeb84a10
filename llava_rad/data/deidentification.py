"""The marks that de-identification left in reports: ``XXXX`` (Open-i), ``___`` (MIMIC-CXR).

They stand for removed words, but Open-i's also replaced ordinary ones ("x-XXXX", "There are no
XXXX of a pleural effusion"). A model that is trained on them writes them.
"""

import re

# Marks may be glued to what is left of a word ("53XXXX", "ComparisXXXX"): it goes with them.
# "<###>" and "!PERSONALNAME!" are CANDID-PTX's, "[**Name**]" is MIMIC-II's and -III's. A glued mark
# is looked for from the start of its word alone, so that a long word is read once.
_MARK = (
    r"(?:_{2,}|\bXXX\b|(?<![^\W_])[^\W_]*X{4,}[^\W_]*(?:'s)?|<#+>|![A-Z]{4,}!"
    r"|\[\*\*[^\[\]]{0,80}\*\*\])"
)
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
    (re.compile(r"(?<![,;:])[,;:]+\s*\."), "."),
    (re.compile(r"([.,;:])(?:\s*\1)+"), r"\1"),
    (re.compile(r"^[\s.,;:/)-]+"), ""),
)
# The ends of sentences; those of titles and hours are none.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bMrs\.)(?<!\bvs\.)(?<!\ba\.m\.)(?<!\bp\.m\.)\s+"
    rf"(?=[A-Z{_GAP}])",
    re.IGNORECASE,
)


# Words that lean on the next one ...
_LEANING = (
    "a|an|the|this|that|these|those|his|her|their|its|no|not|any|each|every|of|to|at|by|with|without"
    "|from|on|in|for|since|than|as|per|via|into|between|after|before|until|during|within|and|or|but"
    "|nor|(?:dr|mr|mrs|ms|prof)\\.?"
)
_VERBS = "is|are|was|were|be|been|being|has|have|had|will|may|can|could|should|would|appear"
_JOINING = "of|at|by|from|for|since|than|via|between|until|and|or|but"
# ... and, after a gap in its place, what cannot be the word that it leaned on.
_NO_WORD = (
    rf"(?:[.,;:!?()]|$|(?:{_VERBS}|{_JOINING}|in|on|to|with|within|without|there|it|which|seen|noted)"
    r"\b)"
)
_ORPHANS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "was paged at GAP.", "no GAP of", "the GAP are", "Dr. GAP was"
        rf"(?<![\w.])(?:{_LEANING})[\s(]*{_GAP}\s*{_NO_WORD}",
        # "lungs are GAP.", "have GAP in the interval"
        rf"\b(?:{_VERBS})\s*{_GAP}\s*(?:[.,;:!?)]|$|(?:{_JOINING})\b)",
        rf"\b(?:has|have|had|been)\s*{_GAP}\s*(?:in|on|to|with|within)\b",
        # "As compared to GAP, the", "since GAP the": the date or study itself
        rf"\b(?:compared?|comparison|relative)\s+(?:to|with)(?:\s+the)?\s*{_GAP}",
        rf"\b(?:since|dated|dr\.?)\s*{_GAP}",
        # "GAP was told", "GAP of the chest": the subject
        rf"^[\s(]*{_GAP}\s*(?:{_VERBS}|of|and|or)\b",
    )
)
_SENTENCE_START = re.compile(r"((?:^|[.!?]\s)\s*)([a-z])")


# In a context ("Two views dated GAP.", "GAP and cough") the orphan alone goes.
_CONTEXT_ORPHANS = (
    re.compile(
        rf"(?:[\s,(]*(?<![\w.])(?:dated|{_LEANING}))+[\s(]*{_GAP}[\s,)]*(?=[.;:]|$)", re.IGNORECASE
    ),
    re.compile(rf"(?:^|(?<=[.!?]\s)){_GAP}\s*(?:and|or)\b\s*", re.IGNORECASE),
)


def remove_marks(text: str, *, context: bool = False) -> str:
    """The text without marks, double spaces or the punctuation that they left behind.

    "x-XXXX" becomes "x-ray", the one word that can be told from its mark. A sentence in which a
    mark leaves an orphan goes as a whole: "As compared to ___, the lungs are clear.", "Dr. ___ was
    paged at ___.". A text that was only marks becomes empty.

    Args:
        text: of a report.
        context: the text is shown to a model and not learnt: of its sentences the orphans alone go,
            and the rest stays.
    """
    text = _X_RAY.sub(r"\1-ray", " ".join(text.replace(_GAP, " ").split()))
    text, marks = _MARKS.subn(_GAP, text)
    if marks and context:
        for pattern in _CONTEXT_ORPHANS:
            text = pattern.sub("", text)
    elif marks:
        sentences = _SENTENCE_END.split(text)
        text = " ".join(sentence for sentence in sentences if not _is_orphaned(sentence))
    lower_case_starts = {match.end() for match in _SENTENCE_START.finditer(text)}
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    if marks and not lower_case_starts:
        # The report writes sentences with capitals; one whose first word went gets its own back.
        text = _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)
    return text if re.search(r"\w", text) else ""


def _is_orphaned(sentence: str) -> bool:
    return _GAP in sentence and any(pattern.search(sentence) for pattern in _ORPHANS)


def has_marks(text: str) -> bool:
    """Whether a text holds a mark; "x-XXXX" counts."""
    return bool(_MARKS.search(text))


def masked_share(text: str) -> float:
    """The share of words that are marks, from 0 to 1."""
    if not has_marks(text):
        return 0.0
    words = _X_RAY.sub(r"\1-ray", text).split()
    return sum(bool(_MARKS.search(word)) for word in words) / len(words) if words else 0.0
