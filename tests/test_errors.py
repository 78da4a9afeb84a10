import pickle

import pytest

from llava_rad.errors import ImageError, LlavaRadError


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
