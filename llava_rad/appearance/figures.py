"""The style of every figure: fonts, colours that colour-blind readers tell apart, metadata."""

import contextlib
import io
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import llava_rad

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008).
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY_BLUE, ORANGE, YELLOW = "#56b4e9", "#e69f00", "#f0e442"
INK, SOFT = "#17212b", "#5b6b7a"

LINES = (BLUE, VERMILLION, GREEN, PURPLE, INK)
"""Colours of lines, each at least 3 : 1 against white."""

ON_RADIOGRAPHS = (SKY_BLUE, ORANGE, YELLOW, PURPLE, GREEN, VERMILLION)
"""Colours of outlines, bright enough for black and gray."""

_GROUND, _GRID = "#ffffff", "#dde4ea"
SMALL, TINY = 8.5, 7.5  # points

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it, so that it is there everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.prop_cycle": f"cycler('color', {list(LINES)})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "text.parse_math": False,  # a $ in a name is a dollar
    "figure.facecolor": _GROUND,
    "savefig.facecolor": _GROUND,
    "axes.facecolor": "none",
    "svg.hashsalt": "llava-rad",  # the same picture is the same file
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this project's style, whatever the user's own; afterwards that one is back."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def save_png(figure: "Figure", title: str, *, dpi: int = 150) -> bytes:
    """A figure as a PNG file.

    Args:
        figure: drawn within :func:`styled`.
        title: for the file's metadata.
        dpi: pixels an inch.
    """
    picture = io.BytesIO()
    with styled():
        figure.savefig(
            picture, format="png", dpi=dpi, metadata={"Title": title, "Software": _software()}
        )
    return picture.getvalue()


def save_svg(figure: "Figure", title: str) -> str:
    """A figure as an SVG file, the same text for the same figure."""
    text = io.StringIO()
    about = {"Title": title, "Creator": _software(), "Date": None}
    with styled():
        figure.savefig(text, format="svg", metadata=about)
    return text.getvalue()


def on_page(svg: str) -> str:
    """An SVG file's element for a page of :mod:`~llava_rad.appearance.pages`, in its colours."""
    element = svg[svg.index("<svg") :]
    names = {_GROUND: "none", INK: "var(--ink)", SOFT: "var(--soft)", _GRID: "var(--line)"}
    names |= {colour: f"var(--series-{n})" for n, colour in enumerate(LINES[:-1], start=1)}
    for colour, name in names.items():
        element = element.replace(colour, name)
    return element


def columns_of(panels: int) -> int:
    """How many of so many panels stand beside one another: three at most, and no gap for four."""
    return 2 if panels == 4 else min(panels, 3)


def fit(text: str, inches: float, size: float, *, lines: int = 2) -> str:
    """A text broken into lines that are no wider than so many inches.

    Args:
        text: white space aside; words that are too long are broken.
        inches: width there is.
        size: of the font, in points.
        lines: at most; what does not fit ends in an ellipsis.
    """
    words = " ".join(text.split())
    for count in range(max(1, len(words)), 0, -1):  # the widest letters decide how many fit
        broken = textwrap.wrap(words, count, max_lines=lines, placeholder="…") or [""]
        if max(_width(line, size) for line in broken) <= 72 * inches:
            return "\n".join(broken)
    return "…"


def note(figure: Any, text: str, *, inches: float) -> None:
    """Explain a figure of constrained layout below it, in lines of at most so many inches."""
    figure.supxlabel(
        fit(text, inches, SMALL, lines=8), x=0.01, ha="left", size=SMALL, color=SOFT, ma="left"
    )


def _width(line: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width, _, _ = TextToPath().get_text_width_height_descent(
        line, FontProperties(family="DejaVu Sans", size=size), ismath=False
    )
    return float(width)


def _software() -> str:
    return f"llava-rad {llava_rad.__version__}"
