import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from llava_rad.evaluation import Prediction, Predictions, evaluate_predictions, render_page
from llava_rad.evaluation.labels import key_label, value_label
from llava_rad.evaluation.page import _pieces
from llava_rad.metrics import Scorer
from llava_rad.metrics.score import HEADLINES


def rows(tmp_path, **changes):
    made = [
        Prediction(f"s{i}", "the lungs are clear", text, {}, None, None, None)
        for i, text in enumerate(["the lungs are clear", "small effusion", "large nodule", "clear"])
    ]
    path = tmp_path / "<b>file.jsonl"
    path.write_text("x")
    return Predictions(path, tuple(made))


def page(predictions, **options):
    scorer = Scorer(["rouge", "bleu_sacrebleu", "chexpert_rules"])
    return render_page(evaluate_predictions(predictions, scorer, resamples=20), **options)


GENERATION = {
    "model": "tiny <b>",
    "manifest": "films.jsonl",
    "split": "test",
    "settings": {"num_beams": 1},
    "precision": "float32",
}


def control(depends, gain):
    """As ``image_control.json`` holds it."""
    primary = "chexpert_rules/uncertain_positive/14/micro/f1"
    gains = {primary: gain} if gain else {}
    wrong = {"image": "noise", "identical_texts": 1, "identical_share": 0.25, "gains": gains}
    return {
        "depends_on_the_image": depends,
        "verdict": "What <b> it says.",
        "primary": primary,
        "count": 4,
        "controls": {"noise": wrong},
    }


WORDS = {"aria-label", "aria-hidden"}


class Links(HTMLParser):
    """Every address a page refers to, the tags that are left open, and pictures without words."""

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.silent = [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [v for k, v in found.items() if k in ("src", "href", "data", "srcset")]
        if (tag == "img" and not found.get("alt")) or (tag == "svg" and not found.keys() & WORDS):
            self.silent.append(found)
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
    inside = {a.removeprefix("#") for a in links.addresses if a.startswith("#")}
    assert inside and inside <= set(re.findall(r' id="([^"]+)"', html))
    others = [a for a in links.addresses if not a.startswith("#")]
    assert others and all(a.startswith("data:image/jpeg;base64,") for a in others)
    assert not re.search(r"@import|url\(|https?:", html)
    assert links.open == [] and links.silent == []
    assert "<script" not in html and '<html lang="en">' in html


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
    assert len(re.findall(r'<article class="case (?:worst|best) ', html)) == shown
    if cases == 1:
        assert "<h4>s0</h4>" in html and "<h4>s1</h4>" in html  # best, and the first of the worst


def test_baselines_and_intervals_are_drawn(tmp_path):
    html = page(rows(tmp_path))
    assert "best single report" in html and "another patient&#39;s report" in html
    assert 'class="whisker"' in html and "95 % intervals" in html


def test_every_baseline_has_a_column_with_its_name(tmp_path):
    html = page(rows(tmp_path))
    table = html[html.index('<table class="metrics') :]
    head, row = re.findall(r"<tr>.*?</tr>", table[: table.index("</table>")], re.DOTALL)[:2]
    names = re.findall(r"<th[^>]*>(?:\s*<svg.*?</svg>\s*)?([^<]+)</th>", head, re.DOTALL)
    assert names == [
        "value",
        "this model",
        "95 % interval",
        "best single report",
        "another patient&#39;s report",
    ]
    # On a phone each number says whose it is.
    assert re.findall('data-column="([^"]+)"', row) == names[1:]


def test_the_title_says_which_model_on_what(tmp_path):
    html = page(rows(tmp_path), generation=GENERATION)
    title = "tiny &lt;b&gt; on films.jsonl, test split"
    assert f"<title>Findings report: {title}</title>" in html and f"<h1>{title}</h1>" in html
    assert "greedy decoding" in html
    everything = page(rows(tmp_path), generation={**GENERATION, "split": "all"})
    assert "films.jsonl, all studies</h1>" in everything
    unknown = page(rows(tmp_path))
    assert "<h1>&lt;b&gt;file.jsonl</h1>" in unknown and "does not say which model" in unknown


@pytest.mark.parametrize(
    ("depends", "said"), [(True, "✓ Yes."), (False, "✗ Not shown."), (None, "? Not tested.")]
)
def test_the_image_controls_verdict_is_on_the_page(tmp_path, depends, said):
    gain = {"gain": 0.125, "interval": {"low": 0.01, "high": 0.25}, "p": 0.0123}
    html = page(rows(tmp_path), control=control(depends, None if depends is None else gain))
    part = html[html.index("Does the text depend on the image?") : html.index("<h2>Metrics")]
    assert said in part and "What &lt;b&gt; it says." in part and "1 of 4 (25 %)" in part
    if depends is not None:
        assert "+0.125" in part and "+0.010 to +0.250" in part and "0.0123" in part


def test_without_a_control_the_page_says_so(tmp_path):
    assert "? Not tested." in page(rows(tmp_path)) and "--image-control" in page(rows(tmp_path))


def test_findings_are_told_apart_by_sign_and_word_and_missed_ones_stand_apart(tmp_path):
    html = page(rows(tmp_path))
    case = html[html.index('aria-label="s1"') :]
    case = case[: case.index("</article>")]
    below = case.index('<div class="observations">')
    for fate, sign, name in (
        ("missed", "−", "Pleural Effusion"),
        ("invented", "+", "No Finding"),
    ):
        told = rf'{fate}: <span class="chip {fate}">.*?{re.escape(sign)}</span> {name}'
        chip = re.search(told, case)
        assert chip and chip.start() > below
    assert "Pleural Effusion" not in case[case.index("<h3>Generated") : below]


def test_no_code_names_where_people_read(tmp_path):
    html = page(rows(tmp_path), generation=GENERATION)
    read = re.sub(r"<style>.*?</style>|<dl>.*?</dl>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert not re.findall(r"rouge[12L]|bleu_|uncertain_|chexpert_rules|fixed_report", read)


def test_entities_cut_the_text_in_order():
    entities = [
        {"text": "left effusion", "label": "L", "start": 1, "end": 2, "fate": "invented"},
        {"text": "effusion", "label": "L", "start": 2, "end": 2, "fate": "matched"},
        {"text": "no", "label": "L", "start": 4, "end": 4, "fate": "matched"},
    ]
    pieces = _pieces({"tokens": "small left effusion . no change", "entities": entities})
    assert pieces == [
        ("small", ""),
        ("left effusion", "invented"),
        (".", ""),
        ("no", "matched"),
        ("change", ""),
    ]


def test_labels_for_people():
    assert value_label("uncertain_positive/14/micro/f1") == (
        "micro F1, 14 observations, uncertain positive"
    )
    assert value_label("bleu_4") == "BLEU-4"
    assert value_label("simple/f1") == "simple F1"
    assert key_label("bleu_coco/bleu_4") == "BLEU-4 (COCO)"
    assert key_label("cider/cider") == "CIDEr-D"
    assert key_label("bertscore/f1") == "BERTScore F1"


def test_every_metric_and_its_values_have_a_name_for_people():
    for metric, values in HEADLINES.items():
        for value in values:
            assert not re.search("[_/]", key_label(f"{metric}/{value}")), (metric, value)
