import csv
import io

import numpy as np
import pytest

from llava_rad.probing.comparison import Comparison, Pair, to_csv, to_html, to_markdown
from llava_rad.probing.outcome import Estimate
from llava_rad.statistics import Difference, Interval


@pytest.fixture
def comparison():
    facts = {"tokens": 16, "input_size": 56, "parameters": 12345, "preprocessing": "a, <b> | c"}
    nan = float("nan")
    return Comparison(
        encoders={"ours": facts, "pixels": {**facts, "parameters": 1}},
        estimates={
            "pneumonia": {
                "ours": {"auroc": Estimate(0.9, 0.8, 0.95, None, 0.5)},
                "pixels": {"auroc": Estimate(0.7, 0.6, 0.8, None, 0.5)},
            },
            "age": {
                "ours": {"mae": Estimate(9.5, 8.0, 11.0, 0.1, 16.0), "r2": Estimate(nan, nan, nan)},
                "pixels": {"mae": Estimate(12.0, 10.0, 14.0, 0.2, 16.0), "r2": Estimate(0, 0, 0)},
            },
        },
        headlines={"pneumonia": "auroc", "age": "mae"},
        lower_is_better=("age",),
        pairs=(
            Pair(
                "pneumonia",
                "auroc",
                "pixels",
                "ours",
                Difference(-0.2, Interval(-0.3, -0.1), 0.002),
                0.004,
            ),
            Pair("age", "mae", "pixels", "ours", Difference(2.5, Interval(-0.5, 5.0), 0.1), 0.2),
        ),
        reference="ours",
        left_out={"RAD-DINO": "not on this machine"},
    )


def test_markdown(comparison):
    text = to_markdown(comparison)
    lines = text.splitlines()
    assert lines[0] == (
        "| encoder | input | tokens | parameters | pneumonia (AUROC) "
        "| age (mean absolute error, lower is better) |"
    )
    assert "0.900 (0.800 to 0.950) |" in lines[2] and "12,345" in lines[2]
    assert "0.700 (0.600 to 0.800) * |" in lines[3]  # p corrected below 0.05
    assert "12.00 (10.00 to 14.00) |" in lines[3]
    assert lines[4] == "| no image (baseline) |  |  |  | 0.500 | 16.00 |"
    assert "| pneumonia | pixels | -0.200 | -0.300 to -0.100 | 0.002 | 0.004 |" in lines
    assert "a, <b> \\| c" in text
    assert "Not compared: RAD-DINO. not on this machine" in text


def test_csv_has_a_line_for_every_measure(comparison):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert len(rows) == 6
    assert rows[1]["task"] == "pneumonia" and rows[1]["encoder"] == "pixels"
    assert rows[1]["p_against_reference"] == "0.004" and rows[0]["p_against_reference"] == ""
    assert rows[2]["value"] == "9.5" and rows[3]["value"] == ""
    assert rows[0]["preprocessing"] == "a, <b> | c"


def test_page_is_self_contained_and_escaped(comparison):
    page = to_html(comparison, "Mine & yours")
    assert "<title>Mine &amp; yours</title>" in page
    assert "a, &lt;b&gt; | c" in page
    assert "http" not in page and "src=" not in page
    # Points, whiskers and the baseline of a chart lie in their order on the axis.
    chart = page[page.index("<h3>pneumonia") : page.index("<h3>age")]

    def places(kind):
        parts = chart.split(f'class="{kind}" style="left:')[1:]
        return [float(part.split("%")[0]) for part in parts]

    (ours, pixels), (baseline, _) = places("dot"), places("baseline")
    assert "AUROC · without the image 0.500" in chart
    for word in ("95 % interval", "the same test without looking at the image", "AUPRC"):
        assert word in page
    assert "auroc" not in page
    assert 0 <= baseline < pixels < ours <= 100
    assert np.isclose((ours - baseline) / (pixels - baseline), 0.4 / 0.2, atol=0.01)
