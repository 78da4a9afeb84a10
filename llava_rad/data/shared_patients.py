"""Data sets that hold the same patients under the same ids."""

_SAME_AS = {
    "chexpert-plus": "chexpert",
    "llava-rad": "mimic-cxr",
    "padchest-gr": "padchest",
    "rsna": "nih",  # where RSNA's mapping named them
}


def patients_of(source: str | None) -> str | None:
    """The data set whose patients a data set's are: its own name, where none is known.

    Example:
        >>> from llava_rad.data.shared_patients import patients_of
        >>> patients_of("chexpert-plus"), patients_of("covid")
        ('chexpert', 'covid')
    """
    return _SAME_AS.get(source or "", source)
