"""Section headers that are misspelt: "IMPRESSON:", "FIDNINGS:", "COMPARISION:".

A word counts as a misspelt header where it is close to one that is known. Headers of structured
findings ("LUNGS:", "HEART:") and of clinical texts ("MEDICATIONS:") are not close to any, or are
words of their own.
"""

from collections.abc import Iterable

# Shorter names are close to too many words ("VIEW", "REASONS", "EXAMS").
_SHORTEST = 7
# From this length on two mistakes are allowed, if the first letter is right.
_LONG = 8

# Words that stand before a colon in reports and are close to a header all the same.
_OWN_WORDS = frozenset(
    {
        "bindings",
        "compression",
        "concussion",
        "confusion",
        "contusion",
        "contusions",
        "depression",
        "expression",
        "fillings",
        "fittings",
        "funding",
        "medication",
        "medications",
        "occlusion",
        "suppression",
    }
)


def meant_header(word: str, known: Iterable[str]) -> str | None:
    """The known name that a word is a misspelling of, or None.

    Args:
        word: lower case, single spaces, none of ``known``.
        known: lower case.
    """
    if len(word) < _SHORTEST - 1 or word in _OWN_WORDS:
        return None
    best: tuple[int, str] | None = None
    for name in known:
        if len(name) < _SHORTEST or abs(len(name) - len(word)) > 2:
            continue
        most = 2 if len(name) >= _LONG and name[0] == word[0] else 1
        distance = _distance(word, name, most)
        if distance is not None and (best is None or distance < best[0]):
            best = distance, name
    return best[1] if best else None


def _distance(one: str, other: str, most: int) -> int | None:
    """Letters left out, put in, exchanged or swapped with the next; None above ``most``."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        two_before, before = before, row
        row = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, two_before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return None
    return row[-1] if row[-1] <= most else None
