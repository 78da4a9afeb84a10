import numpy as np
import pytest

from llava_rad.errors import MetricError
from llava_rad.evaluation.baselines import (
    best_fixed_report,
    fixed_report_candidates,
    nearest,
    other_patients,
    score_each,
)
from llava_rad.metrics import Scorer, cider, rouge


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "patients",
    ["ab", "aab", "aaab", "aabbccdd", "abcdefgh", "aaaaabbbc"],
)
def test_another_patient_is_always_another(patients, seed):
    chosen = other_patients(list(patients), seed=seed)
    assert all(patients[i] != patients[j] for i, j in enumerate(chosen))


def test_single_studies_are_each_used_once():
    chosen = other_patients([str(i) for i in range(100)], seed=0)
    assert sorted(chosen) == list(range(100))
    assert (chosen != other_patients([str(i) for i in range(100)], seed=1)).any()


def test_one_patient_has_no_other():
    with pytest.raises(MetricError, match="one patient"):
        other_patients(["a", "a"])


def test_candidates_are_frequent_or_central():
    reports = ["the lungs are clear"] * 3 + [
        "the heart is normal and the lungs are clear",
        "xyz",
        "",
    ]
    candidates = fixed_report_candidates(reports, 2)
    assert candidates[0] == "the lungs are clear"
    assert "xyz" not in candidates
    assert fixed_report_candidates(["", " "]) == []


def test_the_best_fixed_report_is_the_best_for_each_value():
    references = ["no effusion", "no effusion", "small nodule"]
    texts = ["no effusion", "small nodule"]
    scorer = Scorer(["rouge", "bleu_coco"])
    scored = score_each(scorer, [[text] * 3 for text in texts], references)
    best = best_fixed_report(scored, texts)
    assert best["rouge/rougeL"].text == "no effusion"
    assert best["rouge/rougeL"].value == pytest.approx(2 / 3)
    assert {fixed.text for fixed in best.values()} == {"no effusion"}


def test_lists_scored_together_are_as_scored_alone(texts):
    references = texts[4:] + texts[:4]
    lists = [texts, references, ["no effusion"] * len(texts)]
    together = list(score_each(Scorer(["rouge", "cider"]), lists, references))
    for one, results in zip(lists, together, strict=True):
        assert results["rouge"].values == pytest.approx(rouge(one, references).values)
        assert results["cider"].values == pytest.approx(cider(one, references).values)


def test_the_nearest_row_is_the_one_of_largest_cosine():
    generator = np.random.default_rng(0)
    queries, pool = generator.normal(size=(30, 8)), generator.normal(size=(50, 8))
    pool[0] = 0.0
    norms = np.maximum(np.linalg.norm(pool, axis=1), 1e-12)
    expected = ((queries @ pool.T) / norms).argmax(axis=1)
    np.testing.assert_array_equal(nearest(queries, pool, block=7), expected)
