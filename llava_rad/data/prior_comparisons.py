"""Sentences that compare with an earlier image, which a model of one image cannot know.

A sentence counts where it names an earlier image ("compared to", "prior radiograph", "since") or
says that something is new, the same or different over time ("unchanged", "again seen", "has
increased"). Words that describe the image alone ("increased markings", "decreased lung volumes"),
and earlier events that show in it ("prior sternotomy", "prior granulomatous disease"), do not.
"""

import re

from llava_rad.sentences import SENTENCE_END

_IMAGE = (
    r"(?:study|studies|exam(?:s|inations?)?|films?|radiographs?|radiography|images?|imaging|cxr|cts?"
    r"|x-?\s?rays?|views?|reports?|scans?|mri|chest)"
)
_COMPARES = re.compile(
    "|".join(
        (
            r"\bcompar(?:ed|ison|able|ing|e)\b",
            r"\bunchanged\b|\bnot (?:\w+ly )?changed\b",
            r"\bno (?:(?:significant|substantial|appreciable|acute|other|definite) )?"
            r"(?:interval )?change\b",
            r"\binterval(?:ly)?\b|\bin the interim\b",
            rf"\b(?:prior|previous|earlier|recent|preceding|last|old) (?:[^ ]+ ){{0,4}}?{_IMAGE}\b",
            r"\b(?:the|from|to|with|than|on|since) (?:the )?(?:prior|previous|priors)\b"
            r"(?=[.,;)]| (?:and|but)\b|$)",
            r"\b(?:as|than) before\b",
            r"\bpreviously (?:seen|noted|described|identified|demonstrated)\b",
            r"\bsince (?:the )?(?:[^ ]+ ){0,3}?(?:prior|previous|last|yesterday|exam\w*|study|\d)",
            r"\bagain\b|\bre-?demonstrat\w+\b",
            r"\b(?:has|have|had) (?:been )?(?:\w+ly )?(?:somewhat )?(?:in|de)creased\b",
            r"\b(?:in|de)creasing\b|\b(?:in|de)creased size of\b|\b(?:in|de)creased in size\b",
            r"\b(?:improv(?:ed|ing|ement)|worsen(?:ed|ing))\b",
            r"\b(?:progress(?:ed|ion|ing)|regress(?:ed|ion))\b",
            r"\bresolv(?:ed|ing)\b|\bclearing of\b|\b(?:has|have) cleared\b",
            r"\b(?:stable|persist(?:s|ent|ently|ing)|remain(?:s|ed)?|no longer|continu(?:es|ed))\b",
            r"\bnew(?:ly)?\b(?! (?:york|born))",
            r"\b(?:has|have) been (?:\w+ )?"
            r"(?:removed|placed|repositioned|advanced|withdrawn|pulled)\b",
        )
    ),
    re.IGNORECASE,
)


def without_prior_comparisons(text: str) -> str:
    """The sentences of a text that compare with no earlier image; empty where none is left."""
    sentences = SENTENCE_END.split(" ".join(text.split()))
    return " ".join(sentence for sentence in sentences if not _COMPARES.search(sentence))
