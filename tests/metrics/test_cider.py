import numpy as np
import pytest

from llava_rad.metrics import cider

PREDICTIONS = [
    "the heart is normal in size",
    "no pleural effusion or pneumothorax",
    "small left pleural effusion is seen",
    "the lungs are clear",
    "",
]
REFERENCES = [
    "the heart is normal",
    "no pneumothorax or pleural effusion is seen",
    "there is a small left pleural effusion",
    "the lungs are clear",
    "the lungs are clear of focal disease",
]


def test_values_are_those_of_pycocoevalcap():
    result = cider(PREDICTIONS, REFERENCES)
    expected = [6.581315, 2.25499356, 4.61488535, 10.0, 0.0]  # pycocoevalcap 1.2
    np.testing.assert_allclose(result.per_pair["cider"], expected, atol=1e-6)
    assert result.values["cider"] == pytest.approx(4.690238782198986)


def test_a_longer_prediction_is_damped_by_the_gaussian():
    references = ["a b c d", "e f g h"]
    # The added words are in no reference and weigh log 2 each; length differs by 6 bigrams.
    longer = cider(["a b c d u v w x y z", "e f g h"], references).per_pair["cider"][0]
    cosines = [np.sqrt(n / (n + 6)) for n in (4, 3, 2, 1)]
    assert longer == pytest.approx(10 * np.mean(cosines) * np.exp(-36 / 72))


def test_one_pair_has_no_weights_and_says_so():
    result = cider(["the lungs are clear"], ["the lungs are clear"])
    assert result.values["cider"] == 0.0
    assert "CIDEr is 0" in result.notes[0]
