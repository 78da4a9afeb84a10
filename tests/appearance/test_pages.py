import base64
import io
import re
from importlib import resources

import numpy as np
import pytest
from helpers.contrast import contrast
from jinja2 import UndefinedError
from PIL import Image

from llava_rad.appearance.pages import fill_page, picture_uri

CSS = (resources.files("llava_rad.appearance") / "page.css").read_text()
TEXT = [
    *[(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "ground")],
    *[(name, f"{name}-soft") for name in ("warn", "matched", "missed", "invented")],
    ("accent", "paper"),
]
SIGNS = [(name, "paper") for name in ("reference", *(f"series-{n}" for n in range(1, 5)))]


def colours(dark):
    light, _, rest = CSS.partition("prefers-color-scheme: dark")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", rest if dark else light))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_apart(dark):
    found = colours(dark)
    assert found.keys() == colours(not dark).keys()
    for pairs, least in ((TEXT, 4.5), (SIGNS, 3)):
        for ink, ground in pairs:
            assert contrast(found[ink], found[ground]) >= least, (ink, ground)


def test_what_is_filled_in_is_escaped_and_must_be_there(tmp_path, monkeypatch):
    (tmp_path / "shown_pages").mkdir()
    (tmp_path / "shown_pages" / "__init__.py").write_text("")
    (tmp_path / "shown_pages" / "a.jinja").write_text(
        '<style>{% include "page.css" %}</style>{{ x }}'
    )
    monkeypatch.syspath_prepend(tmp_path)
    page = fill_page("shown_pages", "a.jinja", x="<b>'\"&")
    assert page.endswith("&lt;b&gt;&#39;&#34;&amp;") and "--ink" in page
    with pytest.raises(UndefinedError):
        fill_page("shown_pages", "a.jinja")


def test_a_picture_lies_within_its_address():
    address = picture_uri(np.full((300, 100), 90, np.uint8), 60)
    kind, _, content = address.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg;base64" and picture.size == (20, 60)
