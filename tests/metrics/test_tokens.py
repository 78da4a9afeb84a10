"""Texts are read once, and remembering them changes no value."""

import sys
from collections import Counter

from llava_rad.metrics import Scorer, bleu_coco, cider, meteor, rouge, rouge_l_coco
from llava_rad.metrics.tokens import Tokens

scoring = sys.modules[Scorer.__module__]  # the package's ``score`` is the function

TRUE = ["No effusion .", "Large left effusion .", "Heart size is normal .", "No effusion ."]
FIRST = ["No pleural effusion .", "Large effusion .", "Normal heart .", ""]
SECOND = ["The lungs are clear ."] * 4
SPELLING = ("bleu_coco", "rouge", "rouge_l_coco", "meteor", "cider", "chexpert_rules")


def test_each_distinct_text_is_split_once() -> None:
    seen: Counter[str] = Counter()

    def split(text: str) -> list[str]:
        seen[text] += 1
        return text.split()

    tokens = Tokens(split)
    first, again = tokens(TRUE), tokens(TRUE)
    assert set(seen.values()) == {1}
    assert tokens.remembered == 3
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    spellings = tokens.spellings()
    assert [[spellings[i] for i in text] for text in first] == [text.split() for text in TRUE]


def test_a_metric_alone_and_a_scorer_in_long_use_agree() -> None:
    scorer = Scorer(SPELLING)
    for predictions in (FIRST, SECOND, FIRST):
        results = scorer(predictions, TRUE).results
        for metric in (bleu_coco, rouge, rouge_l_coco, meteor, cider):
            alone = metric(predictions, TRUE)
            assert results[alone.metric].values == alone.values


def test_too_many_texts_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "_REMEMBERED", 2)
    scorer = Scorer(SPELLING)
    first = {name: result.values for name, result in scorer(FIRST, TRUE).results.items()}
    shared = scorer._shared
    kept = shared.white_space
    assert kept.remembered > 2
    second = {name: result.values for name, result in scorer(FIRST, TRUE).results.items()}
    assert second == first
    assert shared.white_space is not kept
    assert len(shared.labels) <= len({*FIRST, *TRUE})


def test_remembered_texts_are_used(monkeypatch) -> None:
    """Four lists of texts beside the same references split each text once a tokenizer."""
    calls: Counter[str] = Counter()
    plain = scoring.split_at_spaces

    def counting(text: str) -> list[str]:
        calls[text] += 1
        return plain(text)

    monkeypatch.setattr(scoring, "split_at_spaces", counting)
    scorer = Scorer(("rouge_l_coco",))
    for predictions in (FIRST, SECOND, FIRST, SECOND):
        scorer.only(("rouge_l_coco",))(predictions, TRUE)
    assert set(calls.values()) == {1}
