"""Errors by subgroup in Chromium: no page is wider than its window, links open what they name."""

import importlib.util
import shutil

import pytest

from llava_rad.evaluation import Prediction, Predictions, evaluate_predictions, render_page
from llava_rad.evaluation.error_comparison import compare_errors
from llava_rad.evaluation.error_page import render_changes
from llava_rad.metrics import Scorer
from llava_rad.statistics import Units

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PRIMARY = "chexpert_rules/uncertain_positive/14/micro/f1"

pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs the package playwright"
    ),
]


def rows(text):
    return tuple(
        Prediction(
            f"s{i}",
            text,
            ["Small left effusion.", "Clear lungs."][i % 2],
            {},
            None,
            f"p{i}",
            None,
            sex="FM"[i // 2 % 2],
            age=5.0 + i,
            view=["PA", "AP", "LATERAL"][i % 3],
            source=f"a rather long name of a data set, the {i % 6}th",
        )
        for i in range(90)
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    first, second = rows("Clear lungs."), rows("Left effusion.")
    scorer = Scorer(["chexpert_rules"])
    found = evaluate_predictions(Predictions(None, first), scorer, resamples=20)
    (folder / "report.html").write_text(render_page(found, cases=1), encoding="utf-8")
    results = [
        scorer([row.prediction for row in some], [row.reference for row in some]).results
        for some in (first, second)
    ]
    units = Units.of([row.patient for row in first])
    compared = compare_errors(["a", "b"], [first, second], results, None, units, PRIMARY)
    page = render_changes("a", first, [other for other, _ in compared])
    (folder / "comparison.html").write_text(page, encoding="utf-8")
    return folder


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report.html", "comparison.html"])
def test_pages_fit_their_window_and_links_open_their_lists(pages, name, width):
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as library:
        browser = library.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((pages / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        link = page.locator(".matrix a").first
        listed = page.locator(link.get_attribute("href"))
        assert not listed.is_visible()
        link.click()
        assert listed.is_visible()
        browser.close()
    assert all(url.startswith(("file:", "data:")) for url in asked)
