import json

import numpy as np
import pytest

from llava_rad.errors import ConfigError, MetricError, WeightsError
from llava_rad.metrics import HEADLINES, METRICS, MetricSettings, Scorer, score
from llava_rad.metrics.score import DEFINITIONS

OFFLINE = [
    "bleu_coco",
    "bleu_sacrebleu",
    "rouge",
    "rouge_l_coco",
    "meteor",
    "cider",
    "chexpert_rules",
]


def test_every_metric_has_a_definition_and_headlines():
    assert set(METRICS) == set(DEFINITIONS) == set(HEADLINES)


def test_metrics_without_weights_are_named_with_their_commands(tmp_path):
    scores = score(["no effusion"], ["no effusion"], settings=MetricSettings(cache=tmp_path))
    assert list(scores.results) == OFFLINE
    assert set(scores.left_out) == {"chexbert", "radgraph", "bertscore"}
    for reason in scores.left_out.values():
        assert "hf download" in reason


def test_a_required_metric_that_is_missing_is_an_error():
    with pytest.raises(WeightsError, match="hf download"):
        score(["a"], ["a"], ["bleu_coco", "chexbert"], require=True)


def test_damaged_weights_are_an_error_even_where_nothing_is_required(tmp_path, word_vocabulary):
    (tmp_path / "chexbert.pth").write_bytes(b"damaged")
    settings = MetricSettings(chexbert=tmp_path, chexbert_vocabulary=word_vocabulary)
    with pytest.raises(WeightsError, match="not a CheXbert checkpoint"):
        score(["a"], ["a"], ["chexbert"], settings=settings)


def test_settings_reach_the_networks(chexbert_file, word_vocabulary, bert_folder):
    settings = MetricSettings(
        chexbert=chexbert_file,
        chexbert_vocabulary=word_vocabulary,
        chexbert_precision="bfloat16",
        bertscore_model=str(bert_folder),
        bertscore_layer=2,
        rouge_stemmer=True,
        device="cpu",
    )
    results = score(
        ["clear"], ["clear"], ["chexbert", "bertscore", "rouge"], settings=settings
    ).results
    assert results["chexbert"].facts["precision"] == "bfloat16"
    assert results["bertscore"].facts["layer"] == 2
    assert results["rouge"].facts["stemmer"] == "Porter"


def test_empty_predictions_count_as_zero():
    predictions = ["", " ", "the heart is normal in size ."]
    references = [
        "there is a large right pneumothorax .",
        "no effusion .",
        "the heart is normal in size .",
    ]
    scores = score(predictions, references, OFFLINE)
    for name, result in scores.results.items():
        for value, numbers in result.per_pair.items():
            assert list(numbers[:2]) == [0.0, 0.0], (name, value)
            assert np.isfinite(numbers).all()
    assert scores.results["rouge"].values["rougeL"] == pytest.approx(1 / 3)
    assert scores.results["meteor"].values["meteor"] < 1 / 3

    for result in score(["", "", ""], references, OFFLINE).results.values():
        assert all(np.isfinite(value) for value in result.values.values())
        assert result.values[HEADLINES[result.metric][0]] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("predictions", "references", "kind"),
    [
        ([], [], "no_pairs"),
        (["a"], ["a", "b"], "length_mismatch"),
        ("text", "text", "not_a_list"),
        (["a"], [["a", "b"]], "not_a_string"),
        ([None], ["a"], "not_a_string"),
    ],
)
@pytest.mark.parametrize("name", OFFLINE)
def test_what_no_metric_is_defined_for_is_refused(name, predictions, references, kind):
    with pytest.raises(MetricError) as caught:
        score(predictions, references, [name])
    assert caught.value.kind == kind
    with pytest.raises(MetricError):
        METRICS[name](predictions, references, Scorer([])._shared)


@pytest.mark.parametrize("references", [[""], ["", " \n", "\t"]])
def test_blank_references_alone_are_refused(references):
    with pytest.raises(MetricError, match="all references are blank") as caught:
        score(["no effusion"] * len(references), references, ["rouge"])
    assert caught.value.kind == "blank_references"
    # One true text is enough.
    assert score(["a", "b"], ["a", ""], ["rouge"]).results["rouge"].values["rouge1"] == 0.5


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="bleu_coco"):
        score(["a"], ["a"], ["blue"])


def test_other_languages_are_left_out_of_english_metrics():
    spanish = ["sin derrame pleural . aumento de densidad en el lóbulo inferior izquierdo"]
    scores = score(spanish, spanish, languages=["es"])
    assert "chexpert_rules" not in scores.results
    assert {"chexpert_rules", "chexbert", "radgraph", "bertscore"} <= set(scores.left_out)
    assert "English" in scores.left_out["chexpert_rules"]
    assert scores.results["bleu_coco"].values["bleu_4"] == pytest.approx(1.0)
    assert "chexpert_rules" in score(spanish, spanish, languages=["en-US"]).results


def test_a_report_of_ten_thousand_words():
    long = " ".join(f"word{i % 997} effusion." for i in range(5000))
    scores = score([long, "no"], ["the lungs are clear", long], OFFLINE)
    for result in scores.results.values():
        assert all(np.isfinite(value) for value in result.values.values())


def test_every_metrics_case_is_covered(shared_cases):
    """Which test of this folder holds each case; a new case has to be added here."""
    covered = {
        "C47": "test_bleu.test_equal_texts_too_short_for_a_four_gram",
        "C49": "test_score.test_empty_predictions_count_as_zero",
        "C51": "test_rouge.test_the_two_conventions_differ_and_say_so",
        "C53": "test_label_f1.test_averages_of_the_published_example",
        "C55": "test_radgraph.test_capitals_change_no_score_in_lowercase",
        "C57": "test_evaluation.test_one_report_for_every_film_is_noticed",
    }
    lines = (shared_cases / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {c["id"] for c in map(json.loads, lines) if c["area"] == "metrics"}
    assert cases == set(covered)
