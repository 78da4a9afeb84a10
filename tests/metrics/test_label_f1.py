import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, classification_report

from llava_rad.metrics import label_f1
from llava_rad.metrics.label_f1 import stated_labels
from llava_rad.metrics.result import join_results, mean_result
from llava_rad.observations import FIVE, OBSERVATIONS, Mention

AVERAGES = ("micro", "macro", "weighted", "samples")


def random_mentions(seed, pairs=80):
    return np.random.default_rng(seed).integers(0, 4, (pairs, 14))


def test_averages_of_the_published_example():
    reference = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    prediction = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    values = label_f1(
        "x", prediction, reference, facts={}, classes=("A", "B"), groups={"2": ("A", "B")}
    ).values
    assert values["uncertain_positive/2/micro/f1"] == pytest.approx(4 / 7)
    assert values["uncertain_positive/2/macro/f1"] == pytest.approx(0.4)
    assert values["uncertain_positive/2/samples/f1"] == pytest.approx(0.5)


def test_an_uncertain_edema_is_a_hit_or_a_miss_by_policy():
    reference, prediction = np.zeros((1, 14), int), np.zeros((1, 14), int)
    edema = OBSERVATIONS.index("Edema")
    reference[0, edema], prediction[0, edema] = Mention.POSITIVE, Mention.UNCERTAIN
    values = label_f1("x", prediction, reference, facts={}).values
    assert values["uncertain_positive/class/Edema/recall"] == 1.0
    assert values["uncertain_negative/class/Edema/recall"] == 0.0
    assert set(FIVE) == {
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Pleural Effusion",
    }


@pytest.mark.parametrize("policy", ["uncertain_positive", "uncertain_negative"])
@pytest.mark.parametrize("group", ["14", "5"])
def test_every_value_agrees_with_scikit_learn(policy, group):
    prediction, reference = random_mentions(0), random_mentions(1)
    reference[:, 3] = Mention.BLANK  # a class without support
    stated = (1, 3) if policy == "uncertain_positive" else (1,)
    names = OBSERVATIONS if group == "14" else FIVE
    columns = [OBSERVATIONS.index(name) for name in names]
    a = np.isin(prediction, stated)[:, columns].astype(int)
    b = np.isin(reference, stated)[:, columns].astype(int)
    result = label_f1("x", prediction, reference, facts={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = classification_report(b, a, target_names=names, output_dict=True)
    for average in AVERAGES:
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            value = result.values[f"{policy}/{group}/{average}/{ours}"]
            assert value == pytest.approx(report[f"{average} avg"][theirs], abs=1e-12)
    for name in names:
        key = f"{policy}/class/{name}"
        assert result.values[f"{key}/f1"] == pytest.approx(report[name]["f1-score"], abs=1e-12)
        assert result.values[f"{key}/support"] == report[name]["support"]
    exact = result.values[f"{policy}/{group}/exact_match"]
    assert exact == pytest.approx(accuracy_score(b, a))


def test_values_of_a_part_follow_from_the_whole():
    prediction, reference = random_mentions(2), random_mentions(3)
    whole = label_f1("x", prediction, reference, facts={})
    part = label_f1("x", prediction[20:50], reference[20:50], facts={})
    assert whole.on(np.arange(20, 50)).values == pytest.approx(part.values)


def test_an_empty_text_matches_nothing():
    nothing = np.zeros((2, 14), int)
    values = label_f1("x", nothing, nothing, facts={}, empty=np.array([True, False]))
    assert list(values.per_pair["uncertain_positive/14/exact_match"]) == [0.0, 1.0]


def test_what_was_stated_can_be_read_again():
    prediction, reference = random_mentions(4), random_mentions(5)
    more = mean_result("x", {"other": np.ones(80)}, facts={})
    result = join_results(label_f1("x", prediction, reference, facts={}), more)
    for policy, stated in (
        ("uncertain_positive", (Mention.POSITIVE, Mention.UNCERTAIN)),
        ("uncertain_negative", (Mention.POSITIVE,)),
    ):
        mine, theirs = stated_labels(result, policy)
        assert (mine == np.isin(prediction, stated)).all()
        assert (theirs == np.isin(reference, stated)).all()
