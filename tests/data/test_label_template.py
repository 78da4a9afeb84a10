"""Templated text says what the labels say, and nothing else."""

import re

import pytest

from llava_rad.data.label_template import FINDING_LABELS, NO_FINDING, findings_from_labels
from llava_rad.errors import DataError

# What each label's sentences are recognised by.
WORDS = {
    "Atelectasis": r"atelecta",
    "Cardiomegaly": r"cardiomegaly|enlarged",
    "Consolidation": r"consolidation",
    "Edema": r"edema",
    "Effusion": r"effusion|pleural fluid",
    "Emphysema": r"emphysem",
    "Fibrosis": r"fibro",
    "Hernia": r"hernia",
    "Infiltration": r"infiltrate",
    "Mass": r"mass",
    "Nodule": r"nodul",
    "Pleural_Thickening": r"thicken",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothorax",
}


def affirmed(text: str) -> set[str]:
    """The labels that a text affirms: named in a sentence without a negation."""
    sentences = [s for s in text.split(". ") if not re.search(r"\b(no|normal|clear)\b", s, re.I)]
    return {
        label
        for label, pattern in WORDS.items()
        if any(re.search(pattern, sentence, re.I) for sentence in sentences)
    }


def test_the_fourteen_labels() -> None:
    assert set(FINDING_LABELS) == set(WORDS)


@pytest.mark.parametrize("label", FINDING_LABELS)
def test_a_label_is_affirmed_and_no_other_is(label: str) -> None:
    for number in range(30):
        assert affirmed(findings_from_labels([label], f"image{number}")) == {label}


def test_all_labels_at_once_are_all_affirmed() -> None:
    assert affirmed(findings_from_labels(FINDING_LABELS, "x")) == set(FINDING_LABELS)


def test_no_finding_is_a_normal_text() -> None:
    for number in range(30):
        text = findings_from_labels([NO_FINDING], f"image{number}")
        assert affirmed(text) == set()
        assert "effusion" in text and "pneumothorax" in text and "normal" in text


def test_the_wording_is_fixed_by_the_id_and_varies_between_ids() -> None:
    assert findings_from_labels(["Mass"], "a") == findings_from_labels(["Mass"], "a")
    normal = {findings_from_labels([NO_FINDING], str(i)) for i in range(200)}
    assert len(normal) > 20
    assert len({findings_from_labels(["Mass"], str(i)) for i in range(200)}) > 10


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["Mas"], "unknown_label"),
        ([], "no_label"),
        ([NO_FINDING, "Mass"], "contradicting_labels"),
    ],
)
def test_wrong_labels(labels: list[str], kind: str) -> None:
    with pytest.raises(DataError) as caught:
        findings_from_labels(labels, "image7")
    assert caught.value.kind == kind
    assert caught.value.where == "image7"
