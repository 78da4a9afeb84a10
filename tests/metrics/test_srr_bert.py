import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from llava_rad.errors import WeightsError
from llava_rad.evaluation import evaluate_predictions, pair_to_json, render_page
from llava_rad.evaluation.predictions import given_predictions
from llava_rad.metrics import MetricSettings, Scorer, SrrBert, score, srr_bert
from llava_rad.metrics.srr_bert import split_sentences

LABELS = {0: "Edema (Present)", 1: "Edema (Absent)", 2: "Cardiomegaly (Present)", 3: "No Finding"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, word_vocabulary):
    """A random BERT with the layout of SRR-BERT: sequence classification, names in the config."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("srr")
    config = BertConfig(
        vocab_size=len(word_vocabulary.read_text().splitlines()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=1.0,
        id2label=LABELS,
        label2id={name: i for i, name in LABELS.items()},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text(word_vocabulary.read_text())
    return folder


@pytest.fixture
def labeler(folder):
    return SrrBert.load(str(folder), device="cpu")


def test_a_report_has_the_labels_of_its_sentences(folder, labeler, texts, word_vocabulary):
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BertTokenizer(vocab=str(word_vocabulary))
    expected = []
    for text in texts:
        found = np.zeros(len(LABELS), dtype=bool)
        for sentence in split_sentences(text):
            with torch.inference_mode():
                logits = network(**tokenizer(sentence, return_tensors="pt")).logits[0]
            found |= (logits > 0).numpy()
        expected.append(found)
    np.testing.assert_array_equal(labeler.label(texts), expected)
    assert 0.05 < np.mean(expected) < 0.95


def test_averages_are_scikit_learns(labeler, texts):
    predictions, references = texts[:30], texts[30:]
    result = srr_bert(predictions, references, labeler=labeler)
    report = classification_report(
        labeler.label(references),
        labeler.label(predictions),
        output_dict=True,
        zero_division=0,
    )
    for average in ("weighted", "micro", "macro"):
        for measure in ("precision", "recall", "f1"):
            name = "f1-score" if measure == "f1" else measure
            expected = report[f"{average} avg"][name]
            assert result.values[f"{average}/{measure}"] == pytest.approx(expected)
    assert "class/Edema (Present)/f1" in result.values
    assert result.facts["labels"] == 4 and len(result.facts["version_sha256"]) == 64
    assert "uncertain" not in result.facts


def test_an_evaluation_shows_it(folder, texts, tmp_path):
    settings = MetricSettings(srr_bert=str(folder), device="cpu", cache=tmp_path)
    evaluation = evaluate_predictions(
        given_predictions(texts[:20], texts[20:40]), Scorer(["srr_bert"], settings), resamples=20
    )
    assert "srr_bert/samples/f1" in pair_to_json(evaluation, 0)["values"]
    assert "F1-SRR-BERT" in render_page(evaluation)


def test_sentences_are_without_numbers():
    assert split_sentences("1. Clear lungs.\n2. No effusion.") == ["Clear lungs.", "No effusion."]
    assert split_sentences("  ") == []


def test_a_missing_model_is_named_with_its_command(tmp_path):
    with pytest.raises(WeightsError, match="hf download StanfordAIMI/SRR-BERT"):
        SrrBert.load()
    scores = score(["a"], ["a"], ["srr_bert"], settings=MetricSettings(cache=tmp_path))
    assert "hf download" in scores.left_out["srr_bert"]
