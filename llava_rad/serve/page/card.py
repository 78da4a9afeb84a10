"""A model's card as HTML: Markdown whose own markup is shown as text, without pictures."""

import re

from markdown_it import MarkdownIt

from llava_rad.model import ReportModel
from llava_rad.model.card import model_card
from llava_rad.model.report_model import CARD_FILE

# What the hub puts before a card.
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def card_html(model: ReportModel) -> str:
    """The card of a model's folder, or the one made of its configuration.

    Nothing in it can run or be fetched: HTML is escaped, pictures are left as their text, links to
    scripts are none, and there are no inline styles.
    """
    file = model.folder / CARD_FILE if model.folder is not None else None
    if file is not None and file.is_file():
        text = file.read_text("utf-8", "replace")
    else:
        text = model_card(model.config)
    return render(text)


def render(text: str) -> str:
    """Markdown (CommonMark with tables) as HTML.

    Example:
        >>> from llava_rad.serve.page.card import render
        >>> render("**a** <b>").strip()
        '<p><strong>a</strong> &lt;b&gt;</p>'
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(_FRONT_MATTER.sub("", text.replace("\r\n", "\n")))
    for token in tokens:
        token.attrs.pop("style", None)  # of columns' alignment; the page allows no inline style
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    return str(parser.renderer.render(tokens, parser.options, {}))
