import pytest

from llava_rad.metrics import temporal_f1
from llava_rad.metrics.temporal import KEYWORDS, words_of_change


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Effusion is unchanged.", "UNCHANGED effusion.", 1.0),
        ("New effusion, worse.", "New effusion.", 2 / 3),
        ("Lungs are clear.", "No effusion.", 1.0),  # nothing to say, nothing said
        ("New effusion.", "No effusion.", 0.0),
        ("", "Stable heart.", 0.0),
        ("new-onset edema, newly", "new edema", 1.0),
        ("stable\nunchanged", "stable_unchanged", 1.0),
    ],
)
def test_by_hand(prediction, reference, value):
    assert temporal_f1([prediction], [reference]).values["f1"] == pytest.approx(value)


def test_words_are_whole():
    assert words_of_change("News of renewed changes, unchanged.") == {"unchanged"}
    assert len(KEYWORDS) == 44
