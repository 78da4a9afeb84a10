import itertools

import numpy as np
import pytest

from llava_rad.errors import MetricError
from llava_rad.metrics import HEADLINES, bleu_coco, chexpert_rules, rouge, score_annotations
from llava_rad.metrics.result import mean_result
from llava_rad.statistics import _resamples, bootstrap, compare, holm


def test_resamples_are_draws_with_replacement():
    counts = np.concatenate(list(_resamples(50, 400, seed=0)))
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_intervals_are_those_of_computing_the_metric_again(texts):
    predictions, references = texts, texts[5:] + texts[:5]
    intervals = bootstrap({"bleu_coco": bleu_coco(predictions, references)}, resamples=40, seed=3)
    again = []
    for counts in np.concatenate(list(_resamples(len(texts), 40, seed=3))).astype(int):
        drawn = np.repeat(np.arange(len(texts)), counts)
        result = bleu_coco([predictions[i] for i in drawn], [references[i] for i in drawn])
        again.append(result.values["bleu_2"])
    low, high = np.percentile(again, [2.5, 97.5])
    interval = intervals["bleu_coco"]["bleu_2"]
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    result = mean_result("x", {"v": values}, facts={})
    interval = bootstrap({"x": result}, resamples=4000)["x"]["v"]
    margin = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - margin, abs=margin / 8)
    assert interval.high == pytest.approx(values.mean() + margin, abs=margin / 8)


def test_the_same_seed_gives_the_same_interval(texts):
    result = {"rouge": rouge(texts, texts[::-1])}
    assert bootstrap(result, seed=1) == bootstrap(result, seed=1)
    assert bootstrap(result, seed=1) != bootstrap(result, seed=2)


def test_one_pair_has_no_interval():
    assert bootstrap({"rouge": rouge(["a"], ["a"])}) == {"rouge": {}}


def test_equal_models_do_not_differ(texts):
    result = {"rouge": rouge(texts, texts[::-1])}
    difference = compare(result, result, {"rouge": ["rougeL"]})["rouge/rougeL"]
    assert difference.difference == 0.0
    assert difference.p_bootstrap == difference.p_randomisation == 1.0


def test_randomisation_is_the_share_of_all_swaps():
    a = np.array([0.9, 0.8, 0.7, 0.9, 0.4, 0.8, 0.6, 0.95])
    b = np.array([0.5, 0.7, 0.75, 0.3, 0.2, 0.5, 0.55, 0.1])
    first, second = (mean_result("x", {"v": v}, facts={}) for v in (a, b))
    found = compare({"x": first}, {"x": second}, {"x": ["v"]}, resamples=20_000)["x/v"]
    signs = np.array(list(itertools.product([1, -1], repeat=len(a))))
    exact = (np.abs((signs * (a - b)).mean(axis=1)) >= abs((a - b).mean()) - 1e-12).mean()
    assert found.difference == pytest.approx((a - b).mean())
    assert found.p_randomisation == pytest.approx(exact, abs=0.005)
    assert found.interval.low < found.difference < found.interval.high


def test_a_clear_difference_has_a_small_p_and_an_interval_off_zero(texts):
    good = {"rouge": rouge(texts, texts)}
    bad = {"rouge": rouge(texts[9:] + texts[:9], texts)}
    found = compare(good, bad, {"rouge": ["rouge1", "rougeL"]})
    for difference in found.values():
        assert difference.difference > 0
        assert difference.interval.low > 0
        assert difference.p_randomisation == pytest.approx(1 / 1001)
        assert difference.p_bootstrap <= 2 / 1001 + 1e-12


def test_corpus_metrics_are_compared_on_the_same_resamples():
    references = ["small effusion", "clear lungs", "left nodule"] * 20
    good = {"chexpert_rules": chexpert_rules(references, references)}
    bad = {"chexpert_rules": chexpert_rules(["clear lungs"] * 60, references)}
    found = compare(good, bad, {"chexpert_rules": HEADLINES["chexpert_rules"]})
    assert all(d.difference > 0 and d.p_randomisation < 0.01 for d in found.values())


def test_entity_types_of_one_model_alone_do_not_disturb():
    def one(label):
        entity = {"tokens": "a", "label": label, "relations": [], "start_ix": 0, "end_ix": 0}
        return {"text": "a", "entities": {"1": entity}}

    reference = [one("A"), one("B"), one("C")]
    first = {"radgraph": score_annotations([one("A"), one("A"), one("A")], reference)}
    second = {"radgraph": score_annotations(reference, reference)}
    values = {"radgraph": HEADLINES["radgraph"]}
    for a, b in ((first, second), (second, first)):
        found = compare(a, b, values)["radgraph/simple/f1"].difference
        assert abs(found) == pytest.approx(2 / 3)


def test_different_numbers_of_pairs_are_refused():
    with pytest.raises(MetricError, match="2 pairs against 1"):
        compare({"rouge": rouge(["a", "b"], ["a", "b"])}, {"rouge": rouge(["a"], ["a"])}, {})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
