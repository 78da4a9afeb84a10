import math

import numpy as np
import pytest
import sacrebleu

from llava_rad.metrics import bleu_coco, bleu_rexrank, bleu_sacrebleu
from llava_rad.metrics.bleu import split_rexrank


def test_coco_is_pycocoevalcaps_value(metric_parity):
    values = bleu_coco(metric_parity["hyps"], metric_parity["refs"]).values
    for name, expected in metric_parity["expected"]["pycocoevalcap.bleu"].items():
        assert values[name] == pytest.approx(expected, abs=1e-6)


def test_sacrebleu_is_sacrebleus_value(metric_parity):
    values = bleu_sacrebleu(metric_parity["hyps"], metric_parity["refs"]).values
    for n in range(1, 5):
        expected = metric_parity["expected"][f"sacrebleu.bleu_{n}"]
        assert values[f"bleu_{n}"] == pytest.approx(expected, abs=1e-6)


def test_coco_precision_and_brevity_by_hand():
    result = bleu_coco(["a b c x"], ["a b c d e f"])
    brevity = math.exp(1 - 6 / 4)
    precisions = [3 / 4, 2 / 3, 1 / 2]
    for n in range(1, 4):
        expected = brevity * math.prod(precisions[:n]) ** (1 / n)
        assert result.values[f"bleu_{n}"] == pytest.approx(expected, rel=1e-6)


def test_repeated_words_match_no_more_often_than_they_occur():
    assert bleu_coco(["the the the the"], ["the cat the dog"]).values["bleu_1"] == pytest.approx(
        0.5
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sacrebleu_agrees_with_the_package(texts, order):
    predictions, references = texts, texts[7:] + texts[:7]
    result = bleu_sacrebleu(predictions, references)
    corpus = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predictions, [references]).score
    assert result.values[f"bleu_{order}"] == pytest.approx(corpus, abs=1e-9)
    single = sacrebleu.BLEU(max_ngram_order=order, effective_order=True)
    expected = [
        single.sentence_score(p, [r]).score for p, r in zip(predictions, references, strict=True)
    ]
    np.testing.assert_allclose(result.per_pair[f"bleu_{order}"], expected, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sacrebleu_smooths_orders_without_a_match(order):
    predictions, references = ["a b c d e", "f g h i"], ["b a d c e", "g x f y"]
    corpus = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predictions, [references]).score
    values = bleu_sacrebleu(predictions, references).values
    assert values[f"bleu_{order}"] == pytest.approx(corpus, abs=1e-9)


def test_equal_texts_too_short_for_a_four_gram():
    short = bleu_sacrebleu(["No pneumothorax"], ["No pneumothorax"])
    assert short.values["bleu_4"] == 0.0
    assert short.per_pair["bleu_4"][0] == pytest.approx(100.0)
    assert "too short" in short.notes[0]
    # A signature is the program's that computed the value; this package computes its own.
    assert "signature" not in short.facts and short.facts["scorer"].startswith("llava_rad")

    texts = ["The lungs are clear.", "No pneumothorax"]
    longer = bleu_sacrebleu(texts, texts)
    assert longer.values["bleu_4"] == pytest.approx(100.0, abs=1e-9)
    assert not longer.notes


@pytest.mark.parametrize("metric", [bleu_coco, bleu_sacrebleu])
def test_empty_predictions_score_zero_and_stay_in_the_corpus(metric):
    references = ["there is a large right pneumothorax .", "no effusion .", "no change ."]
    some = metric(["", " ", "no change ."], references)
    assert list(some.per_pair["bleu_1"][:2]) == [0.0, 0.0]
    top = 100 if metric is bleu_sacrebleu else 1
    # All 13 words of the references count in the brevity penalty of the 3 that were written.
    assert some.values["bleu_1"] == pytest.approx(top * math.exp(1 - 13 / 3), rel=1e-6)
    nothing = metric(["", "", ""], references)
    assert nothing.values == dict.fromkeys(nothing.values, 0.0)


def test_values_on_a_part_are_those_of_the_part(texts):
    predictions, references = texts, texts[3:] + texts[:3]
    part = np.arange(10, 30)
    whole = bleu_coco(predictions, references)
    alone = bleu_coco(predictions[10:30], references[10:30])
    assert whole.on(part).values == pytest.approx(alone.values)


def test_rexrank_is_fast_bleus_value(metric_parity):
    # CXR-Report-Metric's add_bleu_col with fast_bleu 0.0.90 on these pairs; 'coco' gives 0.382.
    values = bleu_rexrank(metric_parity["hyps"], metric_parity["refs"]).values
    assert values["bleu_2"] == pytest.approx(0.4203638276916145, abs=1e-9)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        # fast_bleu 0.0.90, bigram weights of one half.
        ("a", "a b c", 0.04279677428117004),
        ("", "a b c", 0.0),
        ("c d", "a b", 0.0),
        ("a c b", "a b c", 0.223606797749979),
        ("a b", "", 0.0),
        ("a", "a", 0.3162277660168379),
        ("a b b b b", "a b c d", 0.3162277660168379),
        ("No effusion.", "NO effusion .", 1.0),
    ],
)
def test_rexrank_by_pair(prediction, reference, value):
    assert bleu_rexrank([prediction], [reference]).per_pair["bleu_2"][0] == pytest.approx(value)


def test_rexrank_agrees_with_the_installed_package(metric_parity):
    fast_bleu = pytest.importorskip("fast_bleu", reason="a peer's package: pip install fast_bleu")
    for prediction, reference in zip(metric_parity["hyps"], metric_parity["refs"], strict=True):
        mine, true = split_rexrank(prediction), split_rexrank(reference)
        scorer = fast_bleu.BLEU([true], {"bigram": (0.5, 0.5)})
        expected = scorer.get_score([mine])["bigram"][0]
        value = bleu_rexrank([prediction], [reference]).values["bleu_2"]
        assert value == pytest.approx(expected, abs=1e-9)
