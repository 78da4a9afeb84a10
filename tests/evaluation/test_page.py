import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from llava_rad.evaluation import Prediction, Predictions, evaluate_predictions, render_page
from llava_rad.evaluation.page import _pieces, value_label
from llava_rad.metrics import Scorer


def rows(tmp_path, **changes):
    made = [
        Prediction(f"s{i}", "the lungs are clear", text, {}, None, None, None)
        for i, text in enumerate(["the lungs are clear", "small effusion", "large nodule", "clear"])
    ]
    path = tmp_path / "<b>file.jsonl"
    path.write_text("x")
    return Predictions(path, tuple(made))


def page(predictions, *, cases=20):
    scorer = Scorer(["rouge", "bleu_sacrebleu", "chexpert_rules"])
    return render_page(evaluate_predictions(predictions, scorer, resamples=20), cases=cases)


class Links(HTMLParser):
    """Every address a page refers to, and the tags that are left open."""

    def __init__(self):
        super().__init__()
        self.addresses, self.open = [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [v for k, v in found.items() if k in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "a.png")
    predictions = rows(tmp_path)
    first = Prediction("s0", "clear", "clear", {}, tmp_path / "a.png", None, None)
    html = page(Predictions(predictions.path, (first, *predictions.rows[1:])))
    links = Links()
    links.feed(html)
    assert links.addresses and all(a.startswith("data:image/jpeg;base64,") for a in links.addresses)
    assert not re.search(r"@import|url\(|https?:", html)
    assert links.open == []


def test_texts_cannot_become_markup(tmp_path):
    attack = '<script>alert("x")</script><img src=x onerror=y>'
    predictions = rows(tmp_path)
    bad = Prediction(attack, attack, attack, {}, None, None, None)
    html = page(Predictions(predictions.path, (bad, *predictions.rows)))
    assert "<script>alert" not in html and "<img src=x" not in html and "<b>file" not in html
    assert "&lt;script&gt;alert" in html


def test_an_unreadable_image_is_said_and_does_not_stop_the_page(tmp_path):
    predictions = rows(tmp_path)
    lost = Prediction("s9", "a", "b", {}, tmp_path / "absent.png", None, None)
    html = page(Predictions(predictions.path, (lost, *predictions.rows)))
    assert "absent.png" in html


@pytest.mark.parametrize(("cases", "shown"), [(1, 2), (2, 4), (20, 4), (0, 0)])
def test_the_worst_and_the_best_are_listed(tmp_path, cases, shown):
    html = page(rows(tmp_path), cases=cases)
    assert html.count('<div class="case"') == shown
    if cases == 1:
        assert "<b>s0</b>" in html and "<b>s1</b>" in html  # best, and the first of the worst


def test_baselines_and_intervals_are_drawn(tmp_path):
    html = page(rows(tmp_path))
    assert "best single report" in html and "another patient&#39;s report" in html
    assert 'class="whisker"' in html and "95 % intervals" in html


def test_entities_cut_the_text_in_order():
    entities = [
        {"text": "left effusion", "label": "L", "start": 1, "end": 2, "fate": "invented"},
        {"text": "effusion", "label": "L", "start": 2, "end": 2, "fate": "matched"},
        {"text": "no", "label": "L", "start": 4, "end": 4, "fate": "matched"},
    ]
    pieces = _pieces({"tokens": "small left effusion . no change", "entities": entities})
    assert pieces == [
        ("small", "", ""),
        ("left effusion", "invented", "L"),
        (".", "", ""),
        ("no", "matched", "L"),
        ("change", "", ""),
    ]


def test_labels_for_people():
    assert value_label("uncertain_positive/14/micro/f1") == (
        "micro F1, 14 observations, uncertain positive"
    )
    assert value_label("bleu_4") == "BLEU-4"
    assert value_label("simple/f1") == "simple F1"
