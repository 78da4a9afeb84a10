"""Words for a missing value are missing, and words of a report are not."""

import pytest

from llava_rad.readers import is_missing

WORDS = ["nan", "NaN", "None", "NULL", "N/A", "NA", "<NA>", "#N/A", "-", ".", "", "  ", " n/a "]


@pytest.mark.parametrize("value", [*WORDS, None, float("nan")])
def test_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize(
    "value",
    [
        "None of the lines",
        "None.",
        "Nasogastric tube in place.",
        "NA sodium 140",
        "Normal",
        "0",
        "-1",
        0,
        0.0,
        False,
        "...",
        "no",
        [],
    ],
)
def test_there(value):
    assert not is_missing(value)
