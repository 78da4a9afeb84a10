import io
import re

import matplotlib
import pytest
from helpers.contrast import contrast
from matplotlib.figure import Figure
from PIL import Image

from llava_rad.appearance import figures
from llava_rad.appearance.figures import fit, on_page, save_png, save_svg, styled


def plotted():
    with styled():
        figure = Figure()
        axis = figure.subplots()
        axis.plot([1, 2], label="a line")
        axis.set_title("price in $, not $mathematics")
        axis.legend()
    return figure


def test_the_users_own_style_is_left_alone():
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "yellow"}):
        before, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
        figure = plotted()
        save_png(figure, "x"), save_svg(figure, "x")
        assert dict(matplotlib.rcParams) == before
        assert matplotlib.get_backend(auto_select=False) == backend
    assert figure.axes[0].title.get_fontsize() == 10.5


def test_pictures_say_what_they_are_and_are_the_same_again():
    picture = save_png(plotted(), "Losses & more")
    about = Image.open(io.BytesIO(picture)).info
    assert about["Title"] == "Losses & more" and about["Software"].startswith("llava-rad ")
    svg = save_svg(plotted(), "Losses & more")
    assert "Losses &amp; more" in svg and "<dc:date>" not in svg
    assert save_png(plotted(), "Losses & more") == picture
    assert save_svg(plotted(), "Losses & more") == svg


def test_on_a_page_a_figure_takes_the_pages_colours():
    element = on_page(save_svg(plotted(), "x"))
    assert element.startswith("<svg")
    assert not re.findall("#(?:ffffff|17212b|0072b2)", element)
    assert "var(--ink)" in element and "var(--series-1)" in element


@pytest.mark.parametrize("colour", figures.LINES)
def test_lines_are_seen_on_white(colour):
    assert contrast(colour, "#ffffff") >= 3


@pytest.mark.parametrize("colour", figures.ON_RADIOGRAPHS)
def test_outlines_are_seen_on_black_and_gray(colour):
    assert contrast(colour, "#000000") >= 4.5


@pytest.mark.parametrize(
    "text", ["short", "W" * 80, "several words that need more than one line of two inches", ""]
)
def test_a_text_fits(text):
    lines = fit(text, 1.5, 8).split("\n")
    assert len(lines) <= 2
    figure = Figure(dpi=72)
    for line in lines:
        drawn = figure.text(0, 0, line, size=8, family="DejaVu Sans")
        assert drawn.get_window_extent().width <= 72 * 1.5 + 2
    assert fit("one\n  two", 2, 8) == "one two"
    assert fit("W" * 80, 1.5, 8).endswith("…")
