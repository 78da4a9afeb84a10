import itertools

import numpy as np
import pytest

from llava_rad.errors import MetricError
from llava_rad.metrics import HEADLINES, bleu_coco, chexpert_rules, rouge, score_annotations
from llava_rad.metrics.result import mean_result
from llava_rad.statistics import Interval, Units, bootstrap, compare, holm


def test_resamples_are_draws_with_replacement():
    counts = np.concatenate(list(Units.of([None] * 50).draws(400, seed=0)))
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_intervals_are_those_of_computing_the_metric_again(texts):
    predictions, references = texts, texts[5:] + texts[:5]
    intervals = bootstrap({"bleu_coco": bleu_coco(predictions, references)}, resamples=40, seed=3)
    again = []
    draws = Units.of([None] * len(texts)).draws(40, seed=3)
    for counts in np.concatenate(list(draws)).astype(int):
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


def test_units_are_patients_in_the_order_of_their_ids():
    units = Units.of(["b", "a", "b", None, " ", "c"])
    assert units.index.tolist() == [1, 0, 1, 3, 4, 2]
    assert (units.count, units.unnamed, units.name) == (5, 2, "patient")
    assert str(units) == "3 patients and 2 studies without patient id"
    assert str(Units.of(["a"])) == "1 patient"
    alone = Units.of([None, None])
    assert alone.name == "study" and str(alone) == "2 studies (no patient ids)"
    rows = np.arange(12, dtype=float).reshape(6, 2)
    assert units.sums(rows).tolist() == [[2, 3], [4, 6], [10, 11], [6, 7], [8, 9]]


def test_a_block_border_does_not_change_the_draws(monkeypatch):
    units = Units.of([None] * 7)
    whole = np.concatenate(list(units.draws(30, seed=2)))
    monkeypatch.setattr("llava_rad.statistics._BLOCK", 50)
    blocks = list(units.draws(30, seed=2))
    assert len(blocks) == 5
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_forty_equal_studies_of_a_patient_say_no_more_than_one():
    values = np.random.default_rng(0).random(12)
    single = {"x": mean_result("x", {"v": values}, facts={})}
    repeated = {"x": mean_result("x", {"v": np.repeat(values, 40)}, facts={})}
    patients = [f"p{i:02d}" for i in range(12)]
    many = Units.of(np.repeat(patients, 40).tolist())
    alone = bootstrap(single, Units.of(patients))["x"]["v"]
    found = bootstrap(repeated, many)["x"]["v"]
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    # Studies taken for independent make it the square root of 40 times too narrow.
    wrong = bootstrap(repeated)["x"]["v"]
    width = (found.high - found.low) / (wrong.high - wrong.low)
    assert width == pytest.approx(np.sqrt(40), rel=0.15)
    # Tests too: the same p-values as of the 12 studies.
    worse = np.clip(values - 0.1, 0, 1)
    pair = {"x": mean_result("x", {"v": worse}, facts={})}
    pairs = {"x": mean_result("x", {"v": np.repeat(worse, 40)}, facts={})}
    a = compare(single, pair, {"x": ["v"]}, Units.of(patients))["x/v"]
    b = compare(repeated, pairs, {"x": ["v"]}, many)["x/v"]
    assert (a.p_bootstrap, a.p_randomisation) == (b.p_bootstrap, b.p_randomisation)


def test_intervals_over_patients_cover_the_truth():
    rng = np.random.default_rng(1)
    patients = [f"p{i // 10}" for i in range(200)]
    covered = {"patient": 0, "study": 0}
    for seed in range(200):
        # A patient's studies share most of their value; the mean of all patients is 0.
        values = np.repeat(rng.normal(0, 1, 20), 10) + rng.normal(0, 0.3, 200)
        result = {"x": mean_result("x", {"v": values}, facts={})}
        for units in (Units.of(patients), Units.of([None] * 200)):
            interval = bootstrap(result, units, resamples=200, seed=seed)["x"]["v"]
            covered[units.name] += interval.low <= 0 <= interval.high
    assert 0.88 < covered["patient"] / 200 < 0.98
    assert covered["study"] / 200 < 0.6


def test_patients_of_different_sizes_weigh_by_their_studies():
    # A ratio on a resample is that of the studies drawn, not a mean of the patients' ratios.
    values = np.array([1.0, 1.0, 1.0, 0.0])
    units = Units.of(["a", "a", "a", "b"])
    result = mean_result("x", {"v": values}, facts={})
    drawn = np.concatenate(list(units.draws(500, seed=0)))
    by_hand = (3 * drawn[:, 0]) / (3 * drawn[:, 0] + drawn[:, 1])
    low, high = np.percentile(by_hand, [2.5, 97.5])
    assert bootstrap({"x": result}, units, resamples=500)["x"]["v"] == Interval(low, high)


def test_randomisation_swaps_whole_patients():
    # 3 patients: of the 8 ways to swap them, two give the largest difference.
    a, b = np.repeat([1.0, 1.0, 1.0], 5), np.zeros(15)
    first, second = (mean_result("x", {"v": v}, facts={}) for v in (a, b))
    units = Units.of(np.repeat(["p", "q", "r"], 5).tolist())
    found = compare({"x": first}, {"x": second}, {"x": ["v"]}, units, resamples=20_000)["x/v"]
    assert found.p_randomisation == pytest.approx(2 / 8, abs=0.01)
    one = Units.of(["p"] * 15)
    found = compare({"x": first}, {"x": second}, {"x": ["v"]}, one)["x/v"]
    assert (found.interval, found.p_bootstrap, found.p_randomisation) == (None, 1, 1)


def test_units_of_other_studies_are_refused():
    with pytest.raises(MetricError, match="3 pairs against 2"):
        bootstrap({"rouge": rouge(["a", "b"], ["a", "b"])}, Units.of(["p"] * 3))
