"""Whether a report is in English, by its most common words."""

import re
from collections.abc import Sequence

# fmt: off
_COMMON = frozenset([
    "the", "is", "are", "of", "and", "with", "within", "without", "there", "in", "for", "not",
    "to", "or", "has", "seen", "right", "left", "lung", "lungs", "heart", "size", "clear",
    "effusion", "chest", "unremarkable", "stable", "acute",
])
# fmt: on
_FEWEST_WORDS = 4


def is_english(languages: Sequence[str]) -> bool:
    """Whether language codes such as ``en-US`` are all English, as they are where none is given."""
    return all(language.lower().startswith("en") for language in languages)


def foreign(texts: Sequence[str]) -> int:
    """How many texts of four words or more hold none of the words common in English reports."""
    count = 0
    for text in texts:
        words = re.findall(r"[^\W\d_]+", text.lower())
        count += len(words) >= _FEWEST_WORDS and _COMMON.isdisjoint(words)
    return count
