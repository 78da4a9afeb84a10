"""What the page is made of, without a browser."""

import io
import json
import re
from importlib import resources

import pytest
from helpers.contrast import contrast

from llava_rad.images import load_radiograph
from llava_rad.reports import GenerationSettings, ReportWriter
from llava_rad.serve.page.card import render
from llava_rad.serve.page.examples import EXAMPLES

STATIC = resources.files("llava_rad.serve.page") / "static"
NAMES = [file.name for file in STATIC.iterdir() if file.is_file()]
CSS = (STATIC / "layout.css").read_text() + (
    resources.files("llava_rad.appearance") / "page.css"
).read_text()
TEXT = [
    *[(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "ground")],
    *[(name, f"{name}-soft") for name in ("warn", "alarm", "missed")],
    *[("accent", ground) for ground in ("paper", "ground")],
    *[("on-accent", "accent"), ("on-screen", "screen"), ("ink", "matched-soft")],
]
SIGNS = [("reference", "paper"), ("series-1", "paper"), ("accent", "paper"), ("accent", "ground")]


def colours(dark):
    """Of all rules together, the dark ones over the others."""
    found = {}
    for sheet in (CSS[: CSS.index("prefers-color-scheme")], CSS):
        for block in re.findall(r":root\s*{[^}]*}", sheet):
            for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block):
                found.setdefault(name, []).append(value)
    return {name: values[-1 if dark else 0] for name, values in found.items()}


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_apart(dark):
    found = colours(dark)
    assert len({found["paper"], found["ink"], colours(not dark)["paper"]}) == 3
    for pairs, least in ((TEXT, 4.5), (SIGNS, 3)):
        for ink, ground in pairs:
            assert contrast(found[ink], found[ground]) >= least, (ink, ground)


def test_every_file_of_the_page_is_served_and_names_no_other_host(live):
    page = live.http.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    for name in [*NAMES, "project.css"]:
        answer = live.http.get(f"/page/{name}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(types[name.rpartition(".")[2]])
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", answer.text))
        assert addresses <= {"http://www.w3.org"}, name  # a name, which nothing asks
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    asked += [f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', scripts())]
    assert len(asked) > 8
    for path in asked:
        assert live.http.get(path).status_code == 200, path
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=", page.text)


def scripts():
    return "".join((STATIC / name).read_text() for name in NAMES if name.endswith(".js"))


@pytest.mark.parametrize(
    "path", ["/page/nothing.js", "/page/examples/nothing.png", "/page/..%2fcard.py"]
)
def test_there_is_no_other_file(live, path):
    answer = live.http.get(path)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_such_path"


def test_every_element_that_the_scripts_name_is_there():
    html = (STATIC / "index.html").read_text()
    names = set(re.findall(r'\$\("([\w-]+)"\)', scripts()))
    assert len(names) > 30
    assert names <= set(re.findall(r'id="([\w-]+)"', html))


def test_every_field_has_a_label():
    html = (STATIC / "index.html").read_text()
    for tag, attributes in re.findall(r"<(input|textarea|select)([^>]*)>", html):
        name = re.search(r'id="([\w-]+)"', attributes)[1]
        around = re.search(
            rf"<label[^>]*>(?:(?!</label>).)*<{tag}{re.escape(attributes)}", html, re.S
        )
        assert around or f'for="{name}"' in html, name


def test_examples_are_radiographs_and_served_as_they_are(live):
    about = live.http.get("/page/about.json").json()
    assert about["most_files"] == 16 and about["most_bytes"] == live.service.settings.most_bytes
    assert len(about["examples"]) >= 2
    for example in about["examples"]:
        content = live.http.get(f"/page/examples/{example['name']}").content
        assert content == EXAMPLES[example["name"]].content()
        assert load_radiograph(content).pixels.std() > 20
    opacity, without = (EXAMPLES[f"drawing{end}.png"].content() for end in ("-opacity", ""))
    difference = load_radiograph(opacity).pixels.astype(int) - load_radiograph(without).pixels
    rows, columns = (difference > 30).nonzero()
    assert 256 < rows.mean() < 400 and columns.mean() < 200  # low at the picture's left


def test_attention_is_what_the_library_gives(live, model, chest):
    report = live.post("/v1/report", [chest], indication="cough")
    fields = {"report": report.text, "indication": "cough"}
    found = live.post("/v1/attention", [chest], **fields)
    assert found.status_code == 200, found.text
    findings = report.json()["findings"]
    wanted = ReportWriter.of(model).attention(chest, findings, indication="cough")
    assert len(found.json()["sentences"]) == len(wanted) > 0
    for values, sentence in zip(found.json()["sentences"], wanted, strict=True):
        assert (values["start"], values["end"]) == (sentence.start, sentence.end)
        assert values["share"] == pytest.approx(sentence.share, abs=1e-4)
        [image], [expected] = values["images"], sentence.images
        assert image["box"] == pytest.approx(expected.box)
        assert image["grid"] == [pytest.approx(row, abs=1e-3) for row in expected.grid.tolist()]


def test_attention_is_told_of_reports_of_this_server_alone(live, chest):
    values = live.post("/v1/report", [chest]).json()
    values["findings"] += " And more."
    answer = live.post("/v1/attention", [chest], report=json.dumps(values))
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_seal"
    assert live.post("/v1/attention", [chest]).status_code == 400


def test_the_writer_gives_attention_of_what_it_reports(model, chest):
    writer = ReportWriter.of(model)
    findings = writer.report(io.BytesIO(chest), settings=GenerationSettings(max_new_tokens=4))
    first, *_ = writer.attention(chest, findings.findings)
    assert first.images[0].grid.shape == model.grid


def test_a_card_is_shown_and_nothing_in_it_runs(live):
    answer = live.http.get("/v1/card")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "<h1>" in answer.text and live.service.model(None).config.name in answer.text
    assert live.http.get("/v1/card", params={"model": "other"}).status_code == 404
    html = render(
        "---\nlicense: mit\n---\n# T\n\n<script>alert(1)</script> <img src=x onerror=y>\n\n"
        "![p](http://a.example/b.png) [j](javascript:alert(1)) [w](https://a.example)\n\n"
        "| a | b |\n|:--|--:|\n| 1 | 2 |\n"
    )
    assert "license" not in html and "<h1>T</h1>" in html and "<td>2</td>" in html
    assert not re.search(r"<(script|img|iframe)|style=|href=\"javascript", html)
    assert '<a href="https://a.example" target="_blank" rel="noopener noreferrer">w</a>' in html
