import numpy as np
import pytest

from llava_rad.errors import DataError, MetricError
from llava_rad.probing.outcome import (
    BinaryOutcome,
    CategoryOutcome,
    MaskOutcome,
    NumberOutcome,
    join_fits,
    load_outcome,
)
from llava_rad.probing.overlap import dice, surface_distance
from llava_rad.statistics import Interval


def binary(seeds=2, noise=1.0, patients=None, count=40):
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (count, 2)).astype(float)
    targets[3, 0] = np.nan
    signal = np.nan_to_num(targets) + rng.normal(0, noise, (seeds, count, 2))
    names = patients or tuple(f"p{i // 2}" for i in range(count))
    return BinaryOutcome(names, ("A", "B"), signal, targets)


def test_value_is_the_mean_over_seeds_and_lies_in_its_interval():
    outcome = binary()
    estimate = outcome.estimates(resamples=300)["auroc/A"]
    ones = np.ones((1, 40))
    single = [outcome.values(seed, ones)["auroc/A"][0] for seed in range(2)]
    assert estimate.value == pytest.approx(np.mean(single))
    assert estimate.spread == pytest.approx(np.std(single, ddof=1))
    assert estimate.low < estimate.value < estimate.high
    assert estimate.baseline == 0.5


def test_mean_over_labels_and_baseline_of_auprc():
    outcome = binary(seeds=1)
    estimates = outcome.estimates(resamples=20)
    assert estimates["auprc"].value == pytest.approx(
        (estimates["auprc/A"].value + estimates["auprc/B"].value) / 2
    )
    share = np.nanmean(outcome.targets[:, 1])
    assert estimates["auprc/B"].baseline == pytest.approx(share)
    assert estimates["auprc"].spread is None


def test_images_of_few_patients_give_wider_intervals():
    by_image = binary(patients=tuple(f"p{i}" for i in range(40))).estimates()["auroc"]
    by_patient = binary(patients=tuple(f"p{i // 10}" for i in range(40))).estimates()["auroc"]
    assert by_patient.high - by_patient.low != pytest.approx(by_image.high - by_image.low)


def test_differences_are_paired():
    good, bad = binary(noise=0.5), binary(noise=5.0)
    difference = good.compare(bad, resamples=400)["auroc"]
    assert difference.interval.low > 0 and difference.p < 0.01
    # An outcome does not differ from itself, in any resample.
    same = good.compare(good, resamples=400)["auroc"]
    assert (same.difference, same.interval, same.p) == (0, Interval(0, 0), 1)


def test_outcomes_on_other_examples_are_refused():
    with pytest.raises(MetricError, match="same test examples"):
        binary().compare(binary(patients=tuple(f"q{i}" for i in range(40))))


def test_categories():
    targets = np.array([0.0, 1, 2, 2, 1, 0])
    chosen = np.array([0, 1, 1, 2, 0, 2])
    scores = np.eye(3)[chosen][None]
    outcome = CategoryOutcome(
        tuple("abcdef"), ("0-4", "5-9", "10-14"), scores, targets, common=2, ordered=True
    )
    values = {k: float(v[0]) for k, v in outcome.values(0, np.ones((1, 6))).items()}
    assert values["accuracy"] == pytest.approx(3 / 6)
    assert values["within_one"] == pytest.approx(5 / 6)
    assert outcome.baselines() == {"accuracy": 2 / 6, "auroc": 0.5, "within_one": 4 / 6}


def test_numbers():
    outcome = NumberOutcome(("a", "b"), np.array([[40.0, 70.0]]), np.array([50.0, 60.0]), 54.0)
    estimate = outcome.estimates(resamples=10)
    assert estimate["mae"].value == 10.0
    assert estimate["mae"].baseline == pytest.approx(5.0)
    assert estimate["r2"].value == pytest.approx(1 - 200 / 50)


def test_masks_with_an_absent_structure():
    outcome = MaskOutcome(
        ("a", "b", "c"),
        ("lungs", "tube"),
        np.array([[[0.9, 1.0], [0.8, 0.5], [np.nan, 0.0]]]),
        np.array([[[1.0, np.nan], [2.0, 3.0], [np.nan, np.nan]]]),
        np.array([[[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]]),
        np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]),
    )
    values = {k: float(v[0]) for k, v in outcome.values(0, np.ones((1, 3))).items()}
    assert values["dice/lungs"] == pytest.approx(0.85)
    assert values["dice/tube"] == pytest.approx(0.5)
    assert values["dice_present/tube"] == pytest.approx(0.5)
    assert values["surface_distance/lungs"] == pytest.approx(1.5)
    assert values["dice"] == pytest.approx((0.85 + 0.5) / 2)
    assert "dice_present/lungs" not in values


@pytest.mark.parametrize(
    "outcome",
    [
        binary(),
        NumberOutcome(("a", "b"), np.array([[1.0, 2.0]]), np.array([1.0, 3.0]), 2.0),
        CategoryOutcome(("a",), ("x", "y"), np.array([[[0.4, 0.6]]]), np.array([1.0]), 0, True),
    ],
)
def test_saved_predictions_give_the_same_numbers(outcome, tmp_path):
    outcome.save(tmp_path / "o.npz")
    again = load_outcome(tmp_path / "o.npz")
    assert repr(again.estimates(resamples=20)) == repr(outcome.estimates(resamples=20))
    assert again.patients == outcome.patients


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "o.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"o\.npz"):
        load_outcome(tmp_path / "o.npz")


def test_joined_fits_count_alike():
    first, second = binary(seeds=1), binary(seeds=3, noise=4.0)
    joined = join_fits([first, second])
    assert joined.seeds == 4
    value = (first.measured()["auroc"] + 3 * second.measured()["auroc"]) / 4
    estimate = joined.estimates(resamples=20)["auroc"]
    assert estimate.value == joined.measured()["auroc"] == pytest.approx(value)
    assert estimate.spread > 0
    one = np.ones((1, 1, 1))
    masks = MaskOutcome(("p",), ("A",), 0.5 * one, one, one, one[0])
    better = MaskOutcome(("p",), ("A",), one, 0 * one, one, one[0])
    both = join_fits([masks, better]).measured()
    assert both == {"dice": 0.75, "surface_distance": 0.5, "missed": 0}
    with pytest.raises(MetricError, match="not on the same test examples"):
        join_fits([first, binary(patients=tuple("x" * 40))])


def test_finding_one_of_ten_is_no_better_than_finding_all():
    true = np.zeros((30, 40), bool)
    true[10:20, 10:20] = True
    near, nothing = np.roll(true, 3, axis=1), np.zeros_like(true)

    def outcome(predicted):
        return MaskOutcome(
            tuple(f"p{i}" for i in range(10)),
            ("tube",),
            np.array([[[dice(mask, true)] for mask in predicted]]),
            np.array([[[surface_distance(mask, true)] for mask in predicted]]),
            np.array([[[float(mask.any())] for mask in predicted]]),
            np.ones((10, 1)),
        )

    # The one that it finds, it outlines without a fault.
    few, all_of_them = outcome([true] + 9 * [nothing]), outcome(10 * [near])
    # The nine missed ones count with the diagonal of 30 x 40 pixels, 50.
    assert few.measured()["surface_distance"] == pytest.approx(9 * 50 / 10)
    assert few.measured()["missed"] == 9 and all_of_them.measured()["missed"] == 0
    assert few.estimates(resamples=20)["missed"].baseline == 10
    worse = few.compare(all_of_them, resamples=400)["surface_distance"]
    assert worse.difference > 0 and worse.interval.low > 0


def test_structures_that_are_not_there_cannot_be_missed():
    # Of image b the second structure is not known, image c does not show it.
    nan, distance = np.nan, np.zeros((1, 3, 2))
    outcome = MaskOutcome(
        ("a", "b", "c"),
        ("lungs", "tube"),
        np.array([[[1.0, 0.0], [0.0, nan], [1.0, 1.0]]]),
        distance,
        np.array([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]]),
        np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
    )
    values = outcome.measured()
    assert (values["missed/lungs"], values["missed/tube"], values["missed"]) == (1, 1, 2)
    assert outcome.baselines() == {"missed/lungs": 3, "missed/tube": 1, "missed": 4}


def test_one_patient_has_no_interval():
    outcome = NumberOutcome(("a", "a"), np.array([[40.0, 70.0]]), np.array([50.0, 60.0]), 54.0)
    estimate = outcome.estimates(resamples=10)["mae"]
    assert estimate.value == 10 and np.isnan([estimate.low, estimate.high]).all()
    assert outcome.compare(outcome)["mae"].interval is None
