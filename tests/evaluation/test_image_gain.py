import pytest

from llava_rad.errors import ConfigError
from llava_rad.evaluation import CONTROLS, Gain, control_table, measure_control
from llava_rad.evaluation import image_gain as subject
from llava_rad.evaluation.primary import PRIMARY, PairedTest
from llava_rad.metrics import Scorer
from llava_rad.statistics import Difference, Interval

REFERENCES = [f"nodule {i} of the right lung" for i in range(20)]
PATIENTS = [f"p{i}" for i in range(20)]


def measure(right, wrong, **options):
    texts = {"right": right, **dict.fromkeys(CONTROLS, wrong)}
    scorer = Scorer(["rouge", "chexpert_rules"])
    return measure_control(texts, REFERENCES, scorer, **{"patients": PATIENTS, **options})


def test_gains_intervals_and_verdict():
    result = measure(REFERENCES, ["clear lungs"] * 20)
    gain = result.controls["noise"].gains["rouge/rouge1"]
    difference = gain.test.difference
    assert gain.right == 1 and difference.difference == pytest.approx(1 - gain.control)
    assert 0 < difference.interval.low <= 1 - gain.control <= difference.interval.high
    assert gain.positive and gain.test.p <= 0.05
    assert result.depends and result.verdict.startswith("The text depends on the image")


def test_a_loss_is_not_dependence_on_what_the_image_shows():
    result = measure(["clear lungs"] * 20, REFERENCES)
    assert result.controls["other_patient"].gains["rouge/rouge1"].test.difference.difference < 0
    assert not result.depends and "20 of 20 texts differ" in result.verdict


def test_noise_and_blank_alone_do_not_count():
    wrong = ["clear lungs"] * 20
    texts = {"right": REFERENCES, "other_patient": REFERENCES, "noise": wrong, "blank": wrong}
    result = measure_control(texts, REFERENCES, Scorer(["rouge"]), patients=PATIENTS)
    assert result.controls["noise"].gains["rouge/rouge1"].positive
    assert not result.depends and "does not depend" in result.verdict


def test_where_less_is_better_a_gain_is_less(monkeypatch):
    plain = measure(REFERENCES, ["clear lungs"] * 20).controls["blank"].gains["rouge/rouge1"]
    monkeypatch.setattr(subject, "LOWER_IS_BETTER", frozenset({"rouge"}))
    turned = measure(REFERENCES, ["clear lungs"] * 20).controls["blank"].gains["rouge/rouge1"]
    assert turned.test.difference.difference == -plain.test.difference.difference
    assert (turned.right, turned.control) == (plain.right, plain.control)
    assert not turned.positive


@pytest.mark.parametrize(
    ("low", "positive"), [(0.001, True), (0.0, False), (1e-16, False), (-0.1, False)]
)
def test_only_an_interval_above_0_counts(low, positive):
    difference = Difference(0.2, Interval(low, 0.3), 0.001, 0.001)
    assert Gain(0.5, 0.3, PairedTest(difference, 0.001, True)).positive is positive
    assert not Gain(0.5, 0.3, PairedTest(Difference(0.2, None, 1.0, 1.0), 1.0, True)).positive


def test_metrics_of_english_are_left_out_for_other_languages():
    result = measure(REFERENCES, REFERENCES, languages=["es"])
    assert list(result.left_out) == ["chexpert_rules"]
    assert all(key.startswith("rouge/") for key in result.controls["noise"].gains)
    assert not result.depends and result.tested is None
    assert "is not tested" in measure(REFERENCES, ["a"] * 20, languages=["es"]).verdict


def test_the_verdict_rests_on_the_primary_value_alone():
    # Half of the texts find the nodule with the right image, all of them say it in other words.
    right = ["lung nodule"] * 10 + ["clear lungs"] * 10
    wrong = ["clear lungs"] * 20
    result = measure(right, wrong)
    gains = result.controls["other_patient"].gains
    assert next(iter(gains)) == result.primary == PRIMARY
    assert gains[PRIMARY].test.primary and gains[PRIMARY].test.role == "primary"
    assert [gain.test.role for gain in gains.values()].count("primary") == 1
    # PairedTest alone: no other value's number makes its p-value larger.
    assert gains[PRIMARY].test.p == gains[PRIMARY].test.difference.p_randomisation
    assert result.depends and "chexpert-rules micro F1, 14 observations" in result.verdict
    # The same texts judged by a value that does not gain: many others that do are exploratory.
    other = measure(right, wrong, primary="rouge/rouge2")
    assert not other.depends and "gain of ROUGE-2, the primary" in other.verdict
    assert next(iter(other.controls["noise"].gains)) == "rouge/rouge2"


def test_the_primary_value_is_computed_without_being_asked_for():
    texts = {"right": REFERENCES, **dict.fromkeys(CONTROLS, ["clear lungs"] * 20)}
    result = measure_control(texts, REFERENCES, Scorer(["rouge_l_coco"]), patients=PATIENTS)
    keys = list(result.controls["blank"].gains)
    assert keys == [PRIMARY, "rouge_l_coco/rougeL"]
    assert result.depends


def test_a_value_that_does_not_exist_cannot_be_primary():
    with pytest.raises(ConfigError, match=r"'rouge/rouge9'.*rouge/rougeL"):
        measure(REFERENCES, REFERENCES, primary="rouge/rouge9")


def test_one_patient_with_all_the_gain_shows_nothing():
    # 12 patients of 40 studies; the model looks at the images of one of them only.
    references = [f"nodule {i % 40} of the right lung" for i in range(480)]
    patients = [f"p{i // 40}" for i in range(480)]
    right = [text if i < 40 else "clear lungs" for i, text in enumerate(references)]
    texts = {"right": right, **dict.fromkeys(CONTROLS, ["clear lungs"] * 480)}
    by_patient = measure_control(texts, references, Scorer(["rouge"]), patients=patients)
    assert by_patient.tested.test.p == 1 and not by_patient.depends
    assert "12 patients" in control_table(by_patient)
    by_study = measure_control(texts, references, Scorer(["rouge"]), patients=[None] * 480)
    assert by_study.tested.test.p == pytest.approx(1 / 1001)
    assert "480 studies (no patient ids)" in control_table(by_study)
