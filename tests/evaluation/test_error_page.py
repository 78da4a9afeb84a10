import re

import numpy as np
import pytest

from llava_rad.evaluation import Prediction, Predictions, evaluate_predictions, render_page
from llava_rad.evaluation.error_comparison import compare_errors
from llava_rad.evaluation.error_examples import LONGEST, MOST, Examples, said_of
from llava_rad.evaluation.error_page import render_changes
from llava_rad.metrics import Scorer
from llava_rad.metrics.rules import label_reports
from llava_rad.observations import OBSERVATIONS
from llava_rad.statistics import Units

ATTACK = '<script>alert("x")</script><img src=x onerror=y>'
PRIMARY = "chexpert_rules/uncertain_positive/14/micro/f1"


def rows(prediction, count=24, **more):
    return [
        Prediction(
            f"s{i}",
            prediction(i),
            "Small left effusion. The heart is normal." if i % 2 else "Clear lungs.",
            {},
            None,
            f"p{i}",
            None,
            sex="FM"[i // 2 % 2],
            **more,
        )
        for i in range(count)
    ]


def report(made):
    predictions = Predictions(None, tuple(made))
    found = evaluate_predictions(predictions, Scorer(["rouge"]), resamples=20)
    page = render_page(found, cases=0)
    return page[page.index("by subgroup</h2>") : page.index("<h2>Length")]


def comparison(*systems):
    names = [f"{letter} <b>.jsonl" for letter in "abc"][: len(systems)]
    references = [row.reference for row in systems[0]]
    texts = [references, *([row.prediction for row in made] for made in systems)]
    mentions = [label_reports(some) for some in texts]
    units = Units.of([row.patient for row in systems[0]])
    results = [{}] * len(systems)
    found = compare_errors(names, systems, results, np.stack(mentions), units, PRIMARY)
    return render_changes(names[0], systems[0], [compared for compared, _ in found])


@pytest.fixture(scope="module")
def clear():
    return rows(lambda i: "Clear lungs.")


def test_the_report_shows_shares_intervals_cases_and_few(clear):
    part = report(clear)
    table = part[part.index("<caption><span><b>Found</b>") :]
    line = re.search(r'<tr><th scope="row">Pleural Effusion</th>.*?</tr>', table, re.DOTALL)[0]
    read = " ".join(re.sub(r"<[^>]+>", " ", line).split())
    assert read.startswith("Pleural Effusion 0 % 0 – 24 0 of 12 few 0 % 0 – 39 0 of 6 few")
    assert "not in the file of predictions: age, view, source" in part
    assert part.count("not in the file of predictions") == 1
    assert "fewer than 20 patients" in part


def test_a_share_leads_to_the_studies_with_their_sentences(clear):
    part = report(clear)
    links = set(re.findall(r'href="#([^"]+)"', part))
    names = re.findall(r' id="(errors[^"]+)"', part)
    assert links and links == set(names) and len(names) == len(set(names))
    of = part[part.index("<summary>Pleural Effusion</summary>") :]
    women = of[of.index("<summary>sex F: 6 missed") : of.index("<summary>sex M")]
    assert f"missed: {MOST} of 6" in women
    assert women.count("<li>") == MOST and women.count("<li>s1<dl>") == 1
    # The sentence that speaks of it, and the whole text where none does.
    assert "<dd>Small left effusion.</dd>" in women and "The heart is normal." not in women
    assert "<dd>Clear lungs.</dd>" in women


def test_the_comparison_says_how_many_tests_and_what_holds(clear):
    better = rows(lambda i: "Left effusion." if i % 2 else "Clear lungs.", count=60)
    worse = rows(lambda i: "Clear lungs.", count=60)
    page = comparison(worse, better)
    tested = int(re.search(r"<b>(\d+) cells are tested", page)[1])
    assert f"Holm's correction for all {tested}" in page
    assert "Second system: b &lt;b&gt;.jsonl" in page and "<b>.jsonl" not in page
    line = page[page.index('<tr><th scope="row">Pleural Effusion') :]
    read = " ".join(re.sub(r"<[^>]+>", " ", line[: line.index("</tr>")]).split())
    # Agresti and Min: (30 - 0) / 32, 1.96 times the root of 31 - 30 * 30 / 32 over 32 around it.
    assert read.startswith("Pleural Effusion all studies found 0 % 100 % +100.0 +83.4 to +100.0")
    assert read.endswith("&lt; 0.0001 &lt; 0.0001 ▲ better")
    assert "found by the second alone: 3 of 30" in page
    same = comparison(clear, clear)
    assert "No cell has p below 0.05" in same and "0 better, 0 worse" in same
    three = comparison(worse, better, worse)
    names = re.findall(r' id="([^"]+)"', three)
    assert three.count("<h2>Second system") == 2 and len(names) == len(set(names))


def test_no_text_becomes_markup_and_nothing_is_fetched(clear):
    made = rows(lambda i: f"Edema. {ATTACK}", source=ATTACK)
    made[0] = Prediction(ATTACK, ATTACK, ATTACK, {}, None, "p0", None, sex="F", source="other")
    others = [row for row in clear]
    others[0] = Prediction(ATTACK, "Edema.", ATTACK, {}, None, "p0", None)
    for page in (report(made), comparison(made, others)):
        assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
        assert not re.search(r"@import|url\(|https?:", page)
        assert all(address.startswith("#") for address in re.findall(r'href="([^"]+)"', page))


def test_tables_have_captions_and_heads(clear):
    for page in (report(clear), comparison(clear, rows(lambda i: "Edema."))):
        tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
        assert len(tables) >= 2
        for table in tables:
            assert "<caption" in table and 'scope="row"' in table and 'scope="col"' in table
        matrices = [table for table in tables if 'class="matrix' in table]
        assert page.count('<div class="wide" tabindex="0" role="region"') == len(matrices)


def test_what_is_said_of_an_observation():
    effusion, none = OBSERVATIONS.index("Pleural Effusion"), OBSERVATIONS.index("No Finding")
    text = "The heart is large. No effusion. Lungs are clear.\nEffusion drained."
    assert said_of(effusion, text) == "No effusion. Effusion drained."
    assert said_of(none, text) == text.replace("\n", " ")
    assert said_of(effusion, "Heart.") == "Heart." and said_of(effusion, " ") == ""
    assert len(said_of(effusion, "Effusion. " * 1000)) == LONGEST


def test_examples_are_of_different_patients_where_there_are():
    ids = [f"s{i}" for i in range(6)]
    units = Units.of(["b", "b", "b", "a", "b", "c"])
    marked = np.array([True, True, True, True, False, True])
    some = Examples(ids, units, ["Edema."] * 6).of(4, marked, np.arange(6))
    assert ([e.id for e in some.examples], some.count) == (["s0", "s3", "s5"], 5)
    few = Examples(ids, units, ["Edema."] * 6).of(4, marked, np.arange(5))
    assert [e.id for e in few.examples] == ["s0", "s3", "s1"]
