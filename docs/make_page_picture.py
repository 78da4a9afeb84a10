"""The picture of the web page: a radiograph, what the bundled model writes, and a heat map.

    python docs/make_page_picture.py IMAGE docs/serve.png

Runs ``llava-rad serve`` and uses its page in Chromium (Debian's package) as a user does.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PATIENCE = 180_000  # milliseconds


def main() -> None:
    """Serve, upload, write, choose a sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", help="a radiograph that may be shown")
    parser.add_argument("output", type=Path)
    parser.add_argument("--sentence", type=int, default=1, help="whose heat map is shown")
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "llava_rad", "serve", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = (re.search(r"serving .* on (\S+)", line) for line in server.stderr)
        address = next(found[1] for found in lines if found)
        picture = photograph(address, arguments.image, arguments.sentence)
    finally:
        server.terminate()
        server.communicate()
    # Fewer grays than a screen shows, so that the file stays small; the colours keep theirs.
    reduced = Image.open(io.BytesIO(picture)).convert("RGB").point(lambda level: level & 0xFC)
    reduced.save(arguments.output, optimize=True)


def photograph(address: str, image: str, sentence: int) -> bytes:
    """A PNG of the page with a report of the image."""
    with sync_playwright() as library:
        browser = library.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.set_input_files("#files", image)
        page.wait_for_selector("#tools:not([hidden])")
        page.click("#write")
        page.wait_for_selector(".sentence")
        page.locator(".sentence").nth(sentence - 1).click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        picture = page.screenshot(full_page=True)
        browser.close()
    return picture


if __name__ == "__main__":
    main()
