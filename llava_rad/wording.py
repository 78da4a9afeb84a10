"""Sentences that are right for none, for one and for many."""

import difflib
from collections.abc import Iterable

from llava_rad.errors import cut


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Args:
        number: of the things.
        one: the noun.
        many: its plural, where it is more than the noun with an s.

    Example:
        >>> counted(1, "study", "studies"), counted(0, "image")
        ('1 study', '0 images')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def verb(number: int, one: str = "is", many: str = "are") -> str:
    """The form of a verb for a number of things."""
    return one if number == 1 else many


def failed_of(failed: int, total: int, one: str, many: str, then: str) -> str:
    """How many of some things failed, and what became of the others.

    Args:
        failed: how many of them.
        total: of them all.
        one: the noun.
        many: its plural.
        then: what became of those that did not fail, such as ``"written"``.

    Example:
        >>> failed_of(1, 1, "study", "studies", "scored")
        'the only study failed'
        >>> failed_of(2, 3, "study", "studies", "scored")
        '2 of 3 studies failed, the other is scored'
    """
    if failed == total:
        return f"the only {one} failed" if total == 1 else f"all {total} {many} failed"
    rest = "the other is" if total - failed == 1 else "the others are"
    return f"{failed} of {total} {many} failed, {rest} {then}"


def nearest_name(word: str, known: Iterable[str]) -> str:
    """The name most like a word, capitals aside; an empty text where none is like it.

    Example:
        >>> nearest_name("image", ["img", "sex"])
        'img'
    """
    lower = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), lower, n=5, cutoff=0.5)
    # Short names are alike by chance: image and age.
    near = [name for name in found if name[:1] == word[:1].casefold()]
    return lower[near[0]] if near else ""


def listed(names: Iterable[str], what: str, length: int = 400) -> str:
    """Which names there are, for the end of a message.

    Example:
        >>> listed(["a", "b"], "column"), listed([], "column")
        ('Its columns are a, b', 'It has no columns')
    """
    found = list(names)
    if not found:
        return f"It has no {what}s"
    return f"Its {what}{'s are' if len(found) > 1 else ' is'} {cut(', '.join(found), length)}"
