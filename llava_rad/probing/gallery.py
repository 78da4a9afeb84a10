"""Galleries: rows of pictures with captions that fit, a legend, and bars that explain colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_rad.appearance.figures import SMALL, SOFT, TINY, fit, save_png, styled
from llava_rad.probing.masks import Mask

# Inches.
_TILE = 2.0
_GAP = 0.14
_CAPTION = 0.32  # two lines
_MARGIN = 0.2
_BAR = (2.6, 0.12)
_LINE = 0.16
_LEAST = 6.4  # width of the figure, for title and note


@dataclass(frozen=True)
class Outline:
    """The outline of a mask over a picture.

    Attributes:
        mask: of any size, covering the picture.
        colour: of the line, out of :data:`llava_rad.appearance.figures.ON_RADIOGRAPHS`.
        style: of the line, as matplotlib names it: ``-`` or ``--``.
    """

    mask: Mask
    colour: str
    style: str = "-"


@dataclass(frozen=True)
class Tile:
    """A picture.

    Attributes:
        picture: of any size; tiles are equally large.
        caption: below it.
        outlines: over it.
    """

    picture: Image.Image
    caption: str
    outlines: Sequence[Outline] = ()


@dataclass(frozen=True)
class ColourBar:
    """What colours mean.

    Attributes:
        label: the quantity, with its unit.
        colours: from the smallest to the largest value, RGB in [0, 1], [steps, 3].
        low, high: texts at its ends.
    """

    label: str
    colours: NDArray[np.floating]
    low: str
    high: str


@dataclass(frozen=True)
class Gallery:
    """A sheet of pictures.

    Attributes:
        title: above it.
        rows: of tiles, by the row's heading.
        note: explains it, below.
        legend: of lines, by what they mean: colour and line style.
        bars: of colours.
    """

    title: str
    rows: Mapping[str, Sequence[Tile]]
    note: str = ""
    legend: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    bars: Sequence[ColourBar] = ()


def draw_gallery(gallery: Gallery) -> bytes:
    """The gallery as a PNG file; rows without a picture are left out."""
    with styled():
        return save_png(gallery_figure(gallery), gallery.title)


def gallery_figure(gallery: Gallery) -> Any:
    """The gallery as matplotlib's figure, to be saved within the same style."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = {heading: tiles for heading, tiles in gallery.rows.items() if tiles}
    most = max((len(tiles) for tiles in rows.values()), default=0)
    width = max(_LEAST, 2 * _MARGIN + most * (_TILE + _GAP) - _GAP)
    inside = width - 2 * _MARGIN
    note = fit(gallery.note, inside, SMALL, lines=6) if gallery.note else ""
    per_line = max(1, int(inside // (_BAR[0] + 0.4)))
    bar_lines = -(-len(gallery.bars) // per_line)
    row_height = 0.28 + _TILE + _CAPTION + _GAP
    legend_height = 0.1 + 0.19 * -(-len(gallery.legend) // per_line) if gallery.legend else 0.0
    title = fit(gallery.title, 0.88 * inside, 12)  # bold is wider
    above = 0.3 + 0.2 * (title.count("\n") + 1)
    below = legend_height + 0.62 * bar_lines + _LINE * (note.count("\n") + 2)
    height = above + len(rows) * row_height + below
    figure = Figure(figsize=(width, height))

    def text(x: float, top: float, content: str, **options: Any) -> None:
        figure.text(x / width, 1 - top / height, content, va="top", **options)

    def axis(left: float, top: float, wide: float, tall: float) -> Any:
        place = (left / width, 1 - (top + tall) / height, wide / width, tall / height)
        made = figure.add_axes(place)
        made.set_axis_off()
        return made

    text(_MARGIN, 0.14, title, size=12, weight="bold")
    top = above
    for heading, tiles in rows.items():
        text(_MARGIN, top, fit(heading, 0.88 * inside, 10, lines=1), size=10, weight="bold")
        for number, tile in enumerate(tiles):
            left, side = _MARGIN + number * (_TILE + _GAP), max(tile.picture.size)
            wide, tall = (_TILE * length / side for length in tile.picture.size)
            _draw(axis(left, top + 0.26, wide, tall), tile)
            caption = fit(tile.caption, _TILE, TINY)
            text(left, top + 0.3 + tall, caption, size=TINY, linespacing=1.15)
        top += row_height
    if gallery.legend:
        handles = [
            Line2D([], [], color=colour, linestyle=style, linewidth=2.2, label=label)
            for label, (colour, style) in gallery.legend.items()
        ]
        place = (_MARGIN / width, 1 - top / height)
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=place,
            ncols=min(len(handles), per_line),
            borderaxespad=0,
            borderpad=0,
            handlelength=2.6,
        )
        top += legend_height
    for number, bar in enumerate(gallery.bars):
        left = _MARGIN + number % per_line * (_BAR[0] + 0.4)
        line = top + number // per_line * 0.62
        text(left, line, fit(bar.label, _BAR[0], SMALL, lines=1), size=SMALL)
        axis(left, line + 0.18, *_BAR).imshow(bar.colours[None], aspect="auto")
        text(left, line + 0.33, bar.low, size=TINY)
        text(left + _BAR[0], line + 0.33, bar.high, size=TINY, ha="right")
    top += 0.62 * bar_lines
    text(_MARGIN, top + 0.04, note, size=SMALL, color=SOFT, linespacing=1.25)
    return figure


def _draw(axis: Any, tile: Tile) -> None:
    from matplotlib.patheffects import withStroke

    width, height = tile.picture.size
    axis.imshow(np.asarray(tile.picture.convert("RGB")), aspect="auto")
    for outline in tile.outlines:
        mask = np.pad(np.asarray(outline.mask, float), 1)  # closed at the picture's border too
        rows, columns = (np.arange(length) - 0.5 for length in mask.shape)
        if mask.any():
            axis.contour(
                columns * width / (mask.shape[1] - 2) - 0.5,
                rows * height / (mask.shape[0] - 2) - 0.5,
                mask,
                [0.5],
                colors=outline.colour,
                linestyles=outline.style,
                linewidths=1.3,
                path_effects=[withStroke(linewidth=2.2, foreground="black", alpha=0.55)],
            )
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
