import itertools

import numpy as np
import pytest

from llava_rad.errors import MetricError
from llava_rad.metrics import HEADLINES, bleu_coco, chexpert_rules, rouge, score_annotations
from llava_rad.metrics.result import mean_result
from llava_rad.statistics import (
    Interval,
    Units,
    bootstrap,
    compare,
    holm,
    paired_proportion_intervals,
    proportion_intervals,
    swap_p_value,
)


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


@pytest.mark.parametrize(("hits", "cases"), [(0, 12), (12, 12), (7, 20), (1, 1000), (999, 1000)])
def test_with_one_case_a_patient_the_interval_of_a_proportion_is_wilsons(hits, cases):
    from scipy.stats import binomtest

    column = (np.arange(cases) < hits).astype(float)[:, None]
    (interval,) = proportion_intervals(column, np.ones((cases, 1)))
    theirs = binomtest(hits, cases).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    assert interval.high > interval.low


def test_cases_of_one_patient_count_as_one_where_they_are_alike():
    # Twenty patients of five equal cases each are twenty cases, not a hundred.
    hits = np.array([[5.0]] * 8 + [[0.0]] * 12)
    alone = (np.arange(20) < 8).astype(float)[:, None]
    (alike,) = proportion_intervals(hits, np.full((20, 1), 5.0))
    (single,) = proportion_intervals(alone, np.ones((20, 1)))
    assert alike.low == pytest.approx(single.low, abs=0.01)
    assert alike.high == pytest.approx(single.high, abs=0.01)
    # So they are where no variance can be seen.
    (none,) = proportion_intervals(np.zeros((20, 1)), np.full((20, 1), 5.0))
    assert none == proportion_intervals(np.zeros((20, 1)), np.ones((20, 1)))[0]


def test_the_interval_of_a_proportion_of_patients_holds_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chances = generator.integers(1, 6, (60, 1)).astype(float)
        hits = generator.binomial(chances.astype(int), generator.beta(1, 4, (60, 1))).astype(float)
        (interval,) = proportion_intervals(hits, chances)
        held += interval.low <= 0.2 <= interval.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_proportion_of_one_patient_or_of_none_has_no_interval():
    found = proportion_intervals(np.array([[3.0, 0], [0, 0]]), np.array([[4.0, 0], [0, 0]]))
    assert found == [None, None]
    assert paired_proportion_intervals(np.zeros((2, 1)), np.array([[4.0], [0]])) == [None]


def test_the_interval_of_a_paired_difference_is_agresti_and_mins():
    both, first, second, neither = 30, 4, 11, 15
    gains = np.array([0] * both + [-1] * first + [1] * second + [0] * neither, dtype=float)
    (interval,) = paired_proportion_intervals(gains[:, None], np.ones((60, 1)))
    b, c, n = second + 0.5, first + 0.5, 62
    centre = (b - c) / n
    reach = 1.959964 * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (interval.low, interval.high) == pytest.approx((centre - reach, centre + reach))
    (same,) = paired_proportion_intervals(np.zeros((60, 1)), np.ones((60, 1)))
    assert same.low == -same.high < 0


def test_the_exact_test_is_mcnemars_and_that_of_all_swaps():
    from scipy.stats import binomtest

    gains = np.array([1] * 12 + [-1] * 3 + [0] * 40)
    assert swap_p_value(gains) == pytest.approx(binomtest(3, 15).pvalue)
    gains = np.array([3, -1, 2, 2, -1, 0, 5])
    swaps = [sum(s * g for s, g in zip(signs, gains, strict=True)) for signs in _signs(7)]
    as_large = np.mean([abs(total) >= 10 for total in swaps])
    assert swap_p_value(gains) == pytest.approx(as_large)
    assert swap_p_value(np.zeros(9)) == 1.0 and swap_p_value(np.array([1, -1])) == 1.0
    assert swap_p_value(np.ones(200)) == pytest.approx(2.0**-199, rel=1e-12)
    assert swap_p_value(np.ones(5000)) > 0
    many = np.array([1] * 30_000 + [-1] * 29_000)
    assert swap_p_value(many) == pytest.approx(binomtest(29_000, 59_000).pvalue, rel=1e-6)


def _signs(count):
    return itertools.product([1, -1], repeat=count)


def test_units_of_some_studies_are_theirs():
    units = Units.of(["b", None, "a", "b", None]).on(np.array([0, 3, 4]))
    assert (list(units.index), units.count, units.unnamed) == ([0, 0, 1], 2, 1)
    assert str(units) == "1 patient and 1 study without patient id"
