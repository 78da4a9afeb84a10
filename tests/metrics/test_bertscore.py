import importlib
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, MPNetConfig, RobertaConfig

from llava_rad.errors import ConfigError, MetricError, WeightsError
from llava_rad.metrics import BertScorer, bertscore

# The package's name of the module is the function's.
module = importlib.import_module("llava_rad.metrics.bertscore")


@pytest.fixture
def scorer(bert_folder):
    return BertScorer.load(str(bert_folder), layer=1, device="cpu")


def by_hand(folder, layer, prediction, reference):
    """Zhang et al., equation 1, one pair at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    sides = []
    for text in (prediction, reference):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        state = out.hidden_states[layer][0].numpy()
        sides.append(state / np.linalg.norm(state, axis=1, keepdims=True))
    cosine = sides[0] @ sides[1].T
    precision, recall = cosine[1:-1].max(axis=1).mean(), cosine[:, 1:-1].max(axis=0).mean()
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_each_pair_by_hand(scorer, bert_folder, texts):
    predictions, references = texts[10:16], texts[20:26]
    result = bertscore(predictions, references, scorer=scorer)
    for i, pair in enumerate(zip(predictions, references, strict=True)):
        expected = by_hand(bert_folder, 1, *pair)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=True):
            assert result.per_pair[name][i] == pytest.approx(value, abs=1e-5)
    assert result.values["f1"] == pytest.approx(result.per_pair["f1"].mean())


def test_equal_texts_score_one_and_empty_ones_zero(scorer):
    result = bertscore(["no effusion", "", " "], ["no effusion", "clear", ""], scorer=scorer)
    np.testing.assert_allclose(result.per_pair["f1"], [1.0, 0.0, 0.0], atol=1e-6)


def test_rescaling_moves_the_baseline_to_zero(bert_folder, tmp_path):
    table = tmp_path / "baseline.tsv"
    table.write_text("LAYER,P,R,F\n0,0.1,0.1,0.1\n1,0.2,0.4,0.5\n", encoding="utf-8")
    plain = BertScorer.load(str(bert_folder), layer=1, device="cpu")
    scaled = BertScorer.load(
        str(bert_folder), layer=1, rescale=True, baseline_file=table, device="cpu"
    )
    pair = ["no effusion", ""], ["large opacity", "clear"]
    raw, result = bertscore(*pair, scorer=plain), bertscore(*pair, scorer=scaled)
    expected = (raw.per_pair["f1"][0] - 0.5) / (1 - 0.5)
    assert result.per_pair["f1"][0] == pytest.approx(expected)
    assert result.per_pair["f1"][1] == 0.0
    assert result.facts["rescaled"] and not raw.facts["rescaled"]


def test_a_folder_of_a_known_models_name_is_that_model(bert_folder, tmp_path, monkeypatch):
    folder = tmp_path / "distilroberta-base"
    shutil.copytree(bert_folder, folder)
    monkeypatch.setitem(module.LAYERS, "distilroberta-base", 1)
    monkeypatch.setitem(module.BASELINES, ("distilroberta-base", 1), (0.1, 0.2, 0.3))
    scorer = BertScorer.load(str(folder), rescale=True, device="cpu")
    assert (scorer.layer, scorer.baseline) == (1, (0.1, 0.2, 0.3))


def test_what_is_missing_is_named(bert_folder, tmp_path):
    with pytest.raises(WeightsError, match="hf download distilroberta-base") as caught:
        BertScorer.load()
    assert caught.value.kind == "missing"
    with pytest.raises(ConfigError, match="layer"):
        BertScorer.load(str(bert_folder))
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        BertScorer.load(str(bert_folder), layer=9)
    with pytest.raises(MetricError, match="baseline"):
        BertScorer.load(str(bert_folder), layer=1, rescale=True)
    (tmp_path / "table.tsv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(MetricError, match="LAYER, P, R and F"):
        BertScorer.load(
            str(bert_folder), layer=1, rescale=True, baseline_file=tmp_path / "table.tsv"
        )


@pytest.mark.parametrize(
    ("config", "padding", "positions"),
    [(RobertaConfig, 0, 29), (RobertaConfig, 1, 28), (MPNetConfig, 3, 28), (BertConfig, 0, 30)],
)
def test_long_texts_are_cut_at_the_models_own_positions(bert_folder, config, padding, positions):
    # RoBERTa's kind counts positions from behind the padding id, whatever its tokenizer is called.
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.model_max_length = 10**30
    if config is MPNetConfig:  # counts from behind 1, whatever is said
        padding = 1
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    encoder = AutoModel.from_config(
        config(
            vocab_size=len(tokenizer),
            max_position_embeddings=30,
            pad_token_id=padding,
            intermediate_size=8,
            **sizes,
        )
    ).eval()
    scorer = BertScorer(encoder, tokenizer, "tiny", 1, None)
    long, short = scorer.embed(["no effusion " * 50, "no effusion"])
    assert len(long) == positions and len(short) == 4
    result = bertscore(["no effusion " * 50], ["no effusion " * 60], scorer=scorer)
    assert result.values["f1"] == pytest.approx(1.0, abs=1e-5)


def test_few_vectors_are_held_and_the_scores_are_the_same(scorer, texts, monkeypatch):
    predictions, references = [*texts[:20], *texts[:5] * 4], [*texts[20:40], *texts[40:60]]
    together = bertscore(predictions, references, scorer=scorer)
    embedded, held = [], []
    embed, newest = BertScorer.embed, module._newest
    monkeypatch.setattr(
        BertScorer, "embed", lambda self, some: embedded.extend(some) or embed(self, some)
    )

    def counted(*given):
        kept = newest(*given)
        held.append(sum(vectors.numel() for vectors in kept.values()))
        return kept

    monkeypatch.setattr(module, "_newest", counted)
    monkeypatch.setattr(module, "_PAIRS", 4)
    monkeypatch.setattr(module, "_NUMBERS_HELD", 6 * 20 * 16)
    parts = bertscore(predictions, references, scorer=scorer)
    np.testing.assert_allclose(parts.per_pair["f1"], together.per_pair["f1"], atol=1e-6)
    assert 0 < max(held) <= 6 * 20 * 16
    # Equal predictions come one after the other, so that they are embedded once or twice.
    assert all(embedded.count(text) <= 2 for text in texts[:5])
