import pytest

from llava_rad.errors import WeightsError
from llava_rad.metrics import meteor, meteor_wordnet


def test_equal_texts_lose_only_the_one_chunk():
    # One chunk over four words: 1 - gamma * (1 / 4) ** beta.
    assert meteor(["a b c d"], ["a b c d"]).values["meteor"] == pytest.approx(1 - 0.5 / 64)


def test_recall_counts_nine_times_precision():
    # Three of four words match in one chunk, against a reference of six.
    precision, recall = 3 / 4, 3 / 6
    f = precision * recall / (0.9 * precision + 0.1 * recall)
    value = meteor(["a b c x"], ["a b c d e f"]).values["meteor"]
    assert value == pytest.approx(f * (1 - 0.5 * (1 / 3) ** 3))


def test_words_of_one_stem_match_and_synonyms_do_not():
    assert meteor(["effusions"], ["effusion"]).values["meteor"] == pytest.approx(0.5)
    assert meteor(["big"], ["large"]).values["meteor"] == 0.0


def test_capitals_do_not_count_and_empty_texts_score_zero():
    result = meteor(["NO EFFUSION", "", " "], ["no effusion", "no effusion", ""])
    assert result.per_pair["meteor"][0] == pytest.approx(meteor(["a b"], ["a b"]).values["meteor"])
    assert list(result.per_pair["meteor"][1:]) == [0.0, 0.0]


def test_missing_wordnet_is_named_with_its_command(monkeypatch):
    from nltk.corpus.util import LazyCorpusLoader

    def absent(self):
        raise LookupError("wordnet")

    monkeypatch.setattr(LazyCorpusLoader, "ensure_loaded", absent, raising=False)
    with pytest.raises(WeightsError, match=r"nltk\.downloader wordnet") as caught:
        meteor_wordnet(["a"], ["a"])
    assert caught.value.kind == "missing"
