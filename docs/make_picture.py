"""The README's picture: a real radiograph and what the bundled model writes about it.

    python docs/make_picture.py IMAGE docs/demo.svg

Runs ``llava-rad report`` as a user does and draws its output, unchanged, beside the image.
"""

import argparse
import base64
import html
import io
import subprocess
import sys
import textwrap
from pathlib import Path

from PIL import Image

from llava_rad import load_radiograph

WIDTH, SIDE, COLUMNS, LINE = 1000, 340, 68, 20

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">
<rect width="{width}" height="{height}" rx="10" fill="#16181d"/>
<image x="20" y="20" width="{side}" height="{side}" \
href="data:image/jpeg;base64,{picture}"/>
{lines}
</svg>
"""


def main() -> None:
    """Run the command and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image", help="a radiograph that may be shown")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "llava_rad.cli", "report", arguments.image]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)

    picture = Image.fromarray(load_radiograph(arguments.image).pixels)
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
    canvas.paste(picture, ((2 * SIDE - picture.width) // 2, (2 * SIDE - picture.height) // 2))
    jpeg = io.BytesIO()
    canvas.save(jpeg, "JPEG", quality=80)

    text = [(f"$ llava-rad report {Path(arguments.image).name}", "#8be9a8"), ("", "")]
    for paragraph in done.stdout.splitlines():
        color = "#9aa4b2" if paragraph.startswith(("[", "Note:")) else "#f2f4f8"
        text += [(line, color) for line in textwrap.wrap(paragraph, COLUMNS) or [""]]
    lines = "\n".join(
        f'<text x="{SIDE + 45}" y="{45 + i * LINE}" fill="{color}">{html.escape(line)}</text>'
        for i, (line, color) in enumerate(text)
        if line
    )
    arguments.output.write_text(
        SVG.format(
            width=WIDTH,
            height=max(SIDE + 40, 45 + len(text) * LINE),
            side=SIDE,
            picture=base64.b64encode(jpeg.getvalue()).decode(),
            lines=lines,
        )
    )


if __name__ == "__main__":
    main()
