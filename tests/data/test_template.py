"""Texts from statements: the wording and the order belong to the study."""

import re

import pytest

from llava_rad.data.nodule_template import findings_from_nodule, nodule_place
from llava_rad.data.template import compose
from llava_rad.data.zone_template import findings_from_zones
from llava_rad.metrics.rules import label_report
from llava_rad.observations import OBSERVATIONS, Mention


def said(text: str, name: str) -> Mention:
    return Mention(label_report(text)[OBSERVATIONS.index(name)])


def test_every_wording_and_every_order_comes_and_a_study_keeps_its_own() -> None:
    statements = [("a1", "a2"), ("b",), ("c",)]
    texts = [compose(statements, f"study {n}") for n in range(200)]
    assert texts == [compose(statements, f"study {n}") for n in range(200)]
    assert len(set(texts)) == 12  # 3! orders, two wordings of one statement
    assert all(sorted(text[0] for text in some.split()) == ["a", "b", "c"] for some in texts)


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("l.upper lobe(S1+2)", "left upper lobe"),
        ("r.middle lobe", "right middle lobe"),
        ("R.Lower Lobe(S10)", "right lower lobe"),
        ("left lung", "left lung"),
        ("hilum", None),
        ("", None),
    ],
)
def test_a_nodules_place(location: str, place: str | None) -> None:
    assert nodule_place(location) == place


@pytest.mark.parametrize(
    ("size", "what"),
    [("8", "small nodule"), ("30", "large nodule"), ("40", "mass"), ("", "nodule")],
)
def test_a_nodules_text(size: str, what: str) -> None:
    facts = {"location": "r.upper lobe(S2)", "nodule_mm": size}
    for n in range(20):
        text = findings_from_nodule(True, facts, f"{n}")
        assert re.search(rf"\ba {what}\b.*right upper lobe\.", text, re.IGNORECASE)
        assert not re.search(r"\d|mm\b", text)
        assert said(text, "Lung Lesion") == Mention.POSITIVE
        assert said(findings_from_nodule(False, {}, f"{n}"), "Lung Lesion") == Mention.NEGATIVE


def test_zones_are_named_and_no_others() -> None:
    scores = dict.fromkeys("ABCDEF", 0.0)
    for n in range(20):
        one = findings_from_zones(scores | {"C": 3.0}, f"{n}")
        assert "dense airspace opacities" in one.lower()
        assert "lower zone of the right lung" in one and "left lung" in one
        assert said(one, "Lung Opacity") == Mention.POSITIVE
        both = findings_from_zones(scores | {"A": 1.0, "B": 1.0, "D": 1.0, "E": 1.5}, f"{n}")
        assert "upper and middle zones of both lungs" in both
        assert "hazy opacities" in both.lower()
        unlike = findings_from_zones(scores | {"A": 1.0, "E": 1.0, "F": 0.5}, f"{n}")
        assert "upper zone of the right lung and the middle zone of the left lung" in unlike
        assert said(findings_from_zones(scores, f"{n}"), "Lung Opacity") != Mention.POSITIVE
