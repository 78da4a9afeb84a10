import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2ForTokenClassification,
    PreTrainedTokenizerFast,
)

from llava_rad.errors import WeightsError
from llava_rad.metrics import RaTEScorer, ratescore
from llava_rad.metrics.ratescore import one_way, spans

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "no", "effusion", "heart", "large", "edema", ".")
KINDS = ("ABNORMALITY", "ANATOMY", "DISEASE", "NON-ABNORMALITY", "NON-DISEASE")
LABELS = ["O", *(f"{mark}-{kind}" for kind in KINDS for mark in "BI")]


def words_tokenizer():
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Both networks in the layouts of the published ones, with random weights."""
    torch.manual_seed(0)
    ner, encoder = tmp_path_factory.mktemp("ner"), tmp_path_factory.mktemp("encoder")
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "initializer_range": 1.0,
    }
    names = dict(enumerate(LABELS))
    config = DebertaV2Config(**sizes, id2label=names, label2id={v: k for k, v in names.items()})
    network = DebertaV2ForTokenClassification(config)
    network.classifier.bias.data[1::2] += 2.0  # else a random network begins no entity
    network.save_pretrained(ner)
    BertModel(BertConfig(**sizes)).save_pretrained(encoder)
    for folder in (ner, encoder):
        words_tokenizer().save_pretrained(folder)
    return ner, encoder


@pytest.fixture
def scorer(folders):
    return RaTEScorer.load(*map(str, folders), device="cpu")


def test_entities_are_what_the_classifier_says_word_by_word(scorer):
    sentence = "large heart effusion edema ."
    pieces = scorer.ner_tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        classes = scorer.ner(**pieces).logits.argmax(dim=2)[0].tolist()
    labels = [LABELS[i] for i in classes]
    labels[0] = labels[-1] = "O"
    words = ["[CLS]", *sentence.split(), "[SEP]"]
    expected = [(" ".join(words[a:b]), kind) for a, b, kind in spans(labels)]
    (found,) = scorer.entities([sentence])
    assert found == expected and found


def test_a_batch_is_what_single_texts_are(folders, scorer):
    texts = ["large heart .", "no effusion .", "edema", "heart large effusion no edema ."]
    alone = RaTEScorer.load(*map(str, folders), device="cpu")
    assert scorer.entities(texts) == [alone.entities([text], batch_size=1)[0] for text in texts]
    together = scorer.vectors(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(alone.vectors([text], batch_size=1)[0], vector, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1)


def test_spans():
    labels = ["O", "B-DISEASE", "I-DISEASE", "B-ANATOMY", "O", "I-DISEASE", "B-Disease"]
    assert spans(labels) == [(1, 3, "DISEASE"), (3, 4, "ANATOMY"), (6, 7, "DISEASE")]
    assert spans(["I-ANATOMY", "O"]) == []


class Given:
    """Stands for both networks: entities and vectors are given."""

    versions = {"ner_model": "given"}  # noqa: RUF012

    def __init__(self, entities, vectors):
        self._entities, self._vectors = entities, vectors

    def entities(self, texts):
        return [self._entities.get(text, []) for text in texts]

    def vectors(self, words):
        return np.array([self._vectors[word] for word in words], dtype=float)


def test_the_score_by_hand():
    entities = {
        "mine": [("effusion", "ABNORMALITY"), ("heart", "ANATOMY")],
        "theirs": [("fluid", "NON-ABNORMALITY"), ("heart", "ANATOMY")],
    }
    vectors = {"effusion": (1, 0), "fluid": (0.8, 0.6), "heart": (0, 1)}
    result = ratescore(["mine"], ["theirs"], scorer=Given(entities, vectors))
    # effusion's nearest is fluid (0.8), of the opposite: weight 0.5431..., times 0.8716...;
    # heart's is heart. Back, fluid's nearest is effusion with weight 0.1654....
    negated, anatomy = 0.8716553966489615, 0.2856134859160784
    there, back = 0.5431049700217344, 0.16546764653692908
    precision = (0.8 * there * negated + anatomy) / (there + anatomy)
    recall = (0.8 * back * negated + anatomy) / (back + anatomy)
    expected = 2 * precision * recall / (precision + recall)
    assert result.values["ratescore"] == pytest.approx(expected)


def test_pairs_without_entities_and_empty_texts():
    found = {"some": [("heart", "ANATOMY")]}
    scorer = Given(found, {"heart": (1, 0)})
    values = ratescore(["some", "some", "", "some"], ["some", "nothing", "some", "some"],
                       scorer=scorer).per_pair["ratescore"]  # fmt: skip
    assert list(values) == pytest.approx([1.0, 0.5, 0.0, 1.0])


def test_another_classifier_is_refused(folders, tmp_path):
    ner, encoder = folders
    for file in ner.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {i: f"LABEL_{i}" for i in range(len(LABELS))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="not ABNORMALITY"):
        RaTEScorer.load(str(tmp_path), str(encoder), device="cpu")
    with pytest.raises(WeightsError, match="hf download Angelakeke"):
        RaTEScorer.load()


def test_one_way_agrees_with_the_package():
    utils = pytest.importorskip("RaTEScore.utils", exc_type=ImportError)
    rng = np.random.default_rng(0)
    mine, theirs = torch.randn(5, 8), torch.randn(4, 8)
    kinds, others = list(rng.choice(KINDS, 5)), list(rng.choice(KINDS, 4))
    from llava_rad.metrics.ratescore import NEGATED, TYPES, WEIGHTS

    matrix = {(a, b): WEIGHTS[i, j] for i, a in enumerate(TYPES) for j, b in enumerate(TYPES)}
    matrix["NEG", "WEIGHT"] = NEGATED
    unit = torch.nn.functional.normalize
    cosine = (unit(mine, dim=1) @ unit(theirs, dim=1).T).numpy().astype(np.float64)
    expected = utils.compute(mine, theirs, kinds, others, matrix)
    assert one_way(cosine, kinds, others) == pytest.approx(expected, abs=1e-6)
