"""The words that tables write where they have no value."""

# What pandas, R, spreadsheets and databases write, and the signs that people type.
# fmt: off
_WORDS = {
    "", "nan", "-nan", "none", "null", "<null>", "\\n", "n/a", "n.a.", "na", "<na>", "#n/a", "#na",
    "nat", "-", "--", "–", "—", ".",
}
# fmt: on
_LONGEST = max(map(len, _WORDS))


def is_missing(value: object) -> bool:
    """Whether a cell says that there is no value: None, NaN, or a word such as ``"N/A"``.

    Only a whole cell counts, in any case and with space around: ``"None of the lines"`` and
    ``"None."`` are texts.
    """
    if isinstance(value, str):
        word = value.strip()
        return len(word) <= _LONGEST and word.casefold() in _WORDS
    return value is None or (isinstance(value, float) and value != value)
