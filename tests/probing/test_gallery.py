import io

import numpy as np
import pytest
from PIL import Image

from llava_rad.appearance.figures import styled
from llava_rad.probing.gallery import (
    ColourBar,
    Gallery,
    Outline,
    Tile,
    draw_gallery,
    gallery_figure,
)

PICTURE = Image.new("L", (40, 60), 90)
LONG = "a caption that is much too long for so small a tile, with_a_name_that_has_no_space_at_all"


@pytest.fixture
def figure():
    ramp = np.linspace(0, 1, 8)[:, None] * np.ones(3)
    gallery = Gallery(
        "Lungs and heart by a linear head on an encoder with a name of its own, of some length",
        {
            "Worst": [Tile(PICTURE, LONG), Tile(PICTURE, "b")],
            "Middle": [],
            "Best": [Tile(PICTURE, "$x_1$")],
        },
        "How it was made.",
        legend={
            "true": ("#56b4e9", "-"),
            "predicted: lungs": ("#e69f00", "--"),
            "predicted: heart": ("#cc79a7", "--"),
        },
        bars=[ColourBar("attention, times the even share", ramp, "0", "5 and more")],
    )
    with styled():
        made = gallery_figure(gallery)
        made.draw_without_rendering()
        yield made


def test_everything_is_named(figure):
    texts = [text.get_text() for text in figure.texts]
    assert texts[0].startswith("Lungs and heart") and texts[0].endswith("length")
    for said in ("Worst", "Best", "b", "$x_1$", "How it was made.", "5 and more"):
        assert said in texts
    assert "attention, times the even share" in texts
    (legend,) = figure.legends
    lines = {
        t.get_text(): h.get_linestyle()
        for t, h in zip(legend.texts, legend.legend_handles, strict=True)
    }
    assert lines == {"true": "-", "predicted: lungs": "--", "predicted: heart": "--"}


def test_no_panel_is_blank_and_no_row_without_pictures(figure):
    assert len(figure.axes) == 3 + 1  # tiles and the colour bar
    assert all(axis.images for axis in figure.axes)
    assert "Middle" not in [text.get_text() for text in figure.texts]


def test_captions_fit_and_nothing_leaves_the_figure(figure):
    (caption,) = [text for text in figure.texts if text.get_text().startswith("a caption")]
    assert caption.get_text().endswith("…")
    assert caption.get_window_extent().width <= 2.0 * figure.dpi + 2
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height + 1, text
        # A legend of two lines lies above what follows it.
        assert not box.overlaps(figure.legends[0].get_window_extent()), text


def test_outlines_lie_where_masks_end_whatever_their_size():
    mask = np.zeros((30, 20), bool)
    mask[10:20, 5:20] = True  # up to the right border
    outlines = [Outline(mask, "#56b4e9"), Outline(~mask, "#e69f00", "--")]
    outlines.append(Outline(np.zeros_like(mask), "#f0e442"))  # nothing to draw
    gallery = Gallery("Lungs", {"Worst": [Tile(PICTURE, "", outlines)]})
    with styled():
        (axis,) = gallery_figure(gallery).axes
    first, second = axis.collections
    (path,) = first.get_paths()
    # The picture is twice as large; pixel n of it covers n - 0.5 to n + 0.5.
    low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
    np.testing.assert_allclose([low, high], [[9.5, 19.5], [39.5, 39.5]], atol=1.01)
    # True and predicted are told apart without their colours.
    assert first.get_linestyle() != second.get_linestyle()
    assert axis.get_xlim() == (-0.5, 39.5) and axis.get_ylim() == (59.5, -0.5)


def test_a_gallery_is_a_picture_that_says_what_it_is():
    picture = Image.open(io.BytesIO(draw_gallery(Gallery("Just <one>", {"": [Tile(PICTURE, "")]}))))
    assert picture.info["Title"] == "Just <one>" and min(picture.size) > 300
