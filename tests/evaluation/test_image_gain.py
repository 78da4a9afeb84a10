import pytest

from llava_rad.evaluation import CONTROLS, Gain, measure_control
from llava_rad.evaluation import image_gain as subject
from llava_rad.metrics import Scorer
from llava_rad.statistics import Difference, Interval

REFERENCES = [f"nodule {i} of the right lung" for i in range(20)]


def measure(right, wrong, **options):
    texts = {"right": right, **dict.fromkeys(CONTROLS, wrong)}
    return measure_control(texts, REFERENCES, Scorer(["rouge", "chexpert_rules"]), **options)


def test_gains_intervals_and_verdict():
    result = measure(REFERENCES, ["clear lungs"] * 20)
    gain = result.controls["noise"].gains["rouge/rouge1"]
    assert gain.right == 1 and gain.difference.difference == pytest.approx(1 - gain.control)
    assert 0 < gain.difference.interval.low <= 1 - gain.control <= gain.difference.interval.high
    assert gain.positive and gain.p_holm <= 0.05
    assert result.depends and result.verdict.startswith("The text depends on the image")


def test_a_loss_is_not_dependence_on_what_the_image_shows():
    result = measure(["clear lungs"] * 20, REFERENCES)
    assert result.controls["other_patient"].gains["rouge/rouge1"].difference.difference < 0
    assert not result.depends and "20 of 20 texts differ" in result.verdict


def test_noise_and_blank_alone_do_not_count():
    wrong = ["clear lungs"] * 20
    texts = {"right": REFERENCES, "other_patient": REFERENCES, "noise": wrong, "blank": wrong}
    result = measure_control(texts, REFERENCES, Scorer(["rouge"]))
    assert result.controls["noise"].gains["rouge/rouge1"].positive
    assert not result.depends and "does not depend" in result.verdict


def test_where_less_is_better_a_gain_is_less(monkeypatch):
    plain = measure(REFERENCES, ["clear lungs"] * 20).controls["blank"].gains["rouge/rouge1"]
    monkeypatch.setattr(subject, "LOWER_IS_BETTER", frozenset({"rouge"}))
    turned = measure(REFERENCES, ["clear lungs"] * 20).controls["blank"].gains["rouge/rouge1"]
    assert turned.difference.difference == -plain.difference.difference
    assert (turned.right, turned.control) == (plain.right, plain.control)
    assert not turned.positive


@pytest.mark.parametrize(
    ("low", "positive"), [(0.001, True), (0.0, False), (1e-16, False), (-0.1, False)]
)
def test_only_an_interval_above_0_counts(low, positive):
    difference = Difference(0.2, Interval(low, 0.3), 0.001, 0.001)
    assert Gain(0.5, 0.3, difference, 0.001).positive is positive
    assert not Gain(0.5, 0.3, Difference(0.2, None, 1.0, 1.0), 1.0).positive


def test_metrics_of_english_are_left_out_for_other_languages():
    result = measure(REFERENCES, REFERENCES, languages=["es"])
    assert list(result.left_out) == ["chexpert_rules"]
    assert all(key.startswith("rouge/") for key in result.controls["noise"].gains)
