import pickle

import pytest

from llava_rad.errors import DataError, ImageError, LlavaRadError


def test_the_message_says_where_what_and_the_remedy():
    error = ImageError("the file is cut", where="a.png", remedy="Copy it again", kind="cut")
    assert str(error) == "a.png: the file is cut. Copy it again."
    assert str(LlavaRadError("no image was given")) == "no image was given."


@pytest.mark.parametrize("given", [{}, {"where": "a.png", "remedy": "Copy it", "kind": "cut"}])
def test_errors_cross_process_borders(given):
    error = ImageError("the file is cut", **given)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ImageError
    assert str(again) == str(error) and again.kind == error.kind


def test_a_message_is_one_line_of_bounded_length_whatever_is_in_it():
    error = DataError("w" * 10_000, where=f"/folder/{'n' * 4000}/name.csv", remedy="r" * 10_000)
    assert len(str(error)) < 2000
    assert str(error).startswith("/folder/nnn") and "nnn/name.csv: www" in str(error)
    assert str(error).endswith("rrr….")
    assert error.what == "w" * 10_000  # programs have all of it
    assert str(DataError("a\nb\x00c\u2028", where="x\ud800")) == "x\\ud800: a\\nb\\x00c\\u2028."
