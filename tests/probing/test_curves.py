from dataclasses import replace

import numpy as np
import pytest

from llava_rad.outputs import is_our_picture
from llava_rad.probing.comparison import Comparison
from llava_rad.probing.curves import Curves, draw_curves, save_curves
from llava_rad.probing.outcome import Estimate

SHARES = {"all": 100.0, "few": 1.0, "some": 10.0}
VALUES = {"all": 0.9, "few": 0.6, "some": 0.8, "random weights": 0.55, "pixels": 0.7}


@pytest.fixture
def comparison():
    estimates = {
        "pneumonia": {
            n: {"auroc": Estimate(v, v - 0.1, v + 0.05, None, 0.5)} for n, v in VALUES.items()
        },
        "age": {n: {"mae": Estimate(20 * v, 1, 30)} for n, v in VALUES.items()},
    }
    headlines = {"pneumonia": "auroc", "age": "mae"}
    facts = {name: {} for name in VALUES}
    return Comparison(facts, estimates, headlines, ("age",), (), "random weights", {})


def lines(panel):
    """Label to the points of every line."""
    return {line.get_label(): np.array(line.get_data()) for line in panel.get_lines()}


def test_numbers_are_in_order_on_their_axis(comparison):
    baselines = dict.fromkeys(SHARES, "random weights")
    curves = Curves(comparison, "share, %", SHARES, log=True, baselines=baselines)
    first, second = draw_curves(curves).axes
    assert first.get_xscale() == "log" and first.get_xlabel() == "share, %"
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["1", "10", "100"]
    drawn = lines(first)
    np.testing.assert_allclose(drawn["pretrained"], [[1, 10, 100], [0.6, 0.8, 0.9]])
    np.testing.assert_allclose(drawn["random weights"], [[1, 10, 100], [0.55] * 3])
    assert set(drawn["pixels"][1]) == {0.7} and set(drawn["no image"][1]) == {0.5}
    (bars,) = first.containers
    (segments,) = (collection.get_segments() for collection in bars[2])
    np.testing.assert_allclose(segments[0], [[1, 0.5], [1, 0.65]])
    assert first.get_title(loc="left") == "pneumonia" and first.get_ylabel() == "AUROC"
    assert second.get_ylabel() == "mean absolute error, lower is better"
    assert "no image" not in lines(second)


def test_categories_go_down_in_the_order_given(comparison):
    left, right = draw_curves(Curves(comparison, "set", dict.fromkeys(SHARES))).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(SHARES)
    assert left.get_ylim()[0] > left.get_ylim()[1]
    np.testing.assert_allclose(lines(left)["pretrained"], [[0.9, 0.6, 0.8], [0, 1, 2]])
    np.testing.assert_allclose(lines(right)["pretrained"], [[18, 12, 16], [0, 1, 2]])


def test_what_was_left_out_has_no_point_and_repeats_have_their_own(comparison):
    places = {**SHARES, "broken": 50.0}
    repeats = {"pneumonia": {"some": [0.75, 0.85]}}
    panel = draw_curves(Curves(comparison, "share", places, repeats=repeats)).axes[0]
    assert 50 not in lines(panel)["pretrained"][0]
    points = [line.get_data() for line in panel.get_lines() if line.get_marker() == "."]
    assert ([10.0, 10.0], [0.75, 0.85]) in [(list(x), list(y)) for x, y in points]


def test_the_legend_names_every_line_and_intervals_are_explained(comparison):
    places, baselines = {**SHARES}, dict.fromkeys(SHARES, "random weights")
    repeats = {"pneumonia": {"some": [0.75, 0.85]}}
    figure = draw_curves(Curves(comparison, "share", places, baselines=baselines, repeats=repeats))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "pretrained", "random weights", "pixels", "no image",
    ]  # fmt: skip
    assert "95 % intervals" in figure.get_supxlabel() and "Small dots" in figure.get_supxlabel()


def test_no_panel_is_blank(comparison):
    tasks = {f"task {n}": comparison.estimates["pneumonia"] for n in range(4)}
    headlines = dict.fromkeys(tasks, "auroc")
    four = replace(comparison, estimates=tasks, headlines=headlines, lower_is_better=())
    axes = draw_curves(Curves(four, "share", SHARES)).axes
    assert len(axes) == 4 and len({round(axis.get_position().x0, 1) for axis in axes}) == 2


def test_files_are_the_same_for_the_same_figure(comparison, tmp_path):
    curves = Curves(comparison, "share", SHARES)
    svg = save_curves(draw_curves(curves), tmp_path / "new" / "plot", "a & <b>")
    assert svg.startswith("<svg") and "a &amp; &lt;b&gt;" in svg
    assert (tmp_path / "new" / "plot.svg").read_text().startswith("<?xml")
    assert (tmp_path / "new" / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert all(map(is_our_picture, (tmp_path / "new").iterdir()))
    assert save_curves(draw_curves(curves), tmp_path / "plot", "a & <b>") == svg
