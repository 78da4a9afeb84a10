import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from llava_rad.metrics import rouge, rouge_l_coco
from llava_rad.metrics.rouge import lcs_length


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_scores_value(metric_parity, stemmer):
    result = rouge(metric_parity["hyps"], metric_parity["refs"], stemmer=stemmer)
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        expected = metric_parity["expected"][f"rouge_score.{name}.fmeasure.stemmer_{stemmer}"]
        assert result.values[name] == pytest.approx(expected, abs=1e-6)
    if not stemmer:
        np.testing.assert_allclose(
            result.per_pair["rougeL"], metric_parity["per_sample"]["rougeL"], atol=1e-9
        )


def test_rouge_l_coco_is_pycocoevalcaps_value(metric_parity):
    result = rouge_l_coco(metric_parity["hyps"], metric_parity["refs"])
    expected = metric_parity["expected"]["pycocoevalcap.rouge_l"]
    assert result.values["rougeL"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("stemmer", [False, True])
def test_each_pair_agrees_with_the_package(texts, stemmer):
    predictions, references = texts, texts[2:] + texts[:2]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    result = rouge(predictions, references, stemmer=stemmer)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        expected = scorer.score(reference, prediction)
        for name in names:
            assert result.per_pair[name][i] == pytest.approx(expected[name].fmeasure, abs=1e-12)


def test_the_two_conventions_differ_and_say_so():
    predictions, references = ["no acute"], ["no acute cardiopulmonary process"]
    beta_1, beta_12 = rouge(predictions, references), rouge_l_coco(predictions, references)
    assert beta_1.values["rougeL"] == pytest.approx(0.66667, abs=1e-5)
    assert beta_1.facts["beta"] == 1
    assert beta_12.values["rougeL"] == pytest.approx(0.62887, abs=1e-5)
    assert beta_12.facts["beta"] == 1.2


def test_swapped_lines_count_in_the_summary_level_alone():
    values = rouge(["Lungs clear.\nNo effusion."], ["No effusion.\nLungs clear."]).values
    assert values["rougeL"] == pytest.approx(0.5)
    assert values["rougeLsum"] == pytest.approx(1.0)


def test_common_subsequence_against_the_table():
    generator = np.random.default_rng(0)
    for _ in range(50):
        a = list(map(str, generator.integers(0, 6, generator.integers(0, 90))))
        b = list(map(str, generator.integers(0, 6, generator.integers(0, 90))))
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = (
                    table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
                )
        assert lcs_length(a, b) == table[-1, -1]


def test_empty_texts_match_nothing():
    predictions, references = ["", " ", ""], ["no effusion", "", ""]
    assert list(rouge(predictions, references).per_pair["rougeL"]) == [0.0, 0.0, 0.0]
    assert list(rouge_l_coco(predictions, references).per_pair["rougeL"]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "broken", ["a b\nc d", "a b \r\n c d", "a b\n\nc d\n", "\ta b\tc d", "a b c\u2028d"]
)
def test_a_line_break_changes_nothing_in_the_coco_convention(broken):
    assert rouge_l_coco([broken], ["a b c d"]).values["rougeL"] == 1.0
    assert rouge_l_coco(["a b c d"], [broken]).values["rougeL"] == 1.0
    partly = rouge_l_coco(["a x c"], [broken]).values["rougeL"]
    assert partly == rouge_l_coco(["a x c"], ["a b c d"]).values["rougeL"]


def test_double_spaces_count_in_the_coco_convention_as_published():
    # pycocoevalcap splits at each single space, so two of them hold an empty token.
    assert rouge_l_coco(["a  b"], ["a b"]).values["rougeL"] < 1.0
