"""Reports as a PDF page (A4): the pictures on the left, the text on the right.

A text that does not fit is set smaller, and what does not fit even then goes on a second page.
"""

import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from PIL import Image

from llava_rad import __version__
from llava_rad.extras import require
from llava_rad.reports.formats.document import DocumentImage, ReportDocument

if TYPE_CHECKING:
    from fpdf import FPDF
    from fpdf.fonts import TTFFont

_FONT = "DejaVu Sans"  # matplotlib brings it
_LEFT, _TOP, _WIDTH = 15.0, 15.0, 180.0  # millimetres
_PICTURES, _GAP = 84.0, 8.0
_BOTTOM, _FOOT = 277.0, 281.0
_FRAME = (76, 195, 217)
_INK, _SOFT, _WARN, _BAR = (23, 33, 43), (91, 107, 122), (170, 40, 20), (0, 114, 178)
_SIZES = (10.5, 9.5, 8.5, 7.5, 6.5)  # points of the text, the first that fits
_LONGEST = 1000  # pixels of a picture's longer side: 320 an inch


def write_pdf(document: ReportDocument) -> bytes:
    """A report as a PDF file; texts can be searched and copied.

    Raises:
        ImageError: a picture cannot be read any more.
        MissingExtraError: fpdf2 or matplotlib is not installed.
    """
    require("formats", "PDF")
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells each table of a font
    pictures = [(image, _jpeg(document, image)) for image in document.images]
    for size in _SIZES:
        pdf = _set(document, pictures, size)
        if pdf.page == 1:
            break
    return bytes(pdf.output())


def _set(
    document: ReportDocument, pictures: Sequence[tuple[DocumentImage, bytes]], size: float
) -> "FPDF":
    page = _Page(document, size)
    page.heading()
    top = page.pdf.get_y()
    page.pictures(pictures, top)
    page.column(top)
    page.foot()
    return page.pdf


class _Page:
    def __init__(self, document: ReportDocument, size: float) -> None:
        from fpdf import FPDF
        from matplotlib import get_data_path

        self.document, self.size = document, size
        pdf = self.pdf = FPDF(format="A4")
        folder = f"{get_data_path()}/fonts/ttf"
        pdf.add_font(_FONT, fname=f"{folder}/DejaVuSans.ttf")
        pdf.add_font(_FONT, "B", fname=f"{folder}/DejaVuSans-Bold.ttf")
        pdf.set_title("Chest X-ray findings")
        pdf.set_producer(f"llava-rad {__version__}")
        pdf.set_creation_date(document.written)
        pdf.set_margins(_LEFT, _TOP, 210 - _LEFT - _WIDTH)
        pdf.set_auto_page_break(True, 297 - _BOTTOM)
        pdf.c_margin = 0.0  # texts begin where pictures do
        pdf.add_page()
        self._known = cast("TTFFont", pdf.fonts[_FONT.lower()]).cmap

    def write(
        self,
        text: str,
        size: float,
        *,
        bold: bool = False,
        color: tuple[int, int, int] = _INK,
        after: float = 1.0,
    ) -> None:
        """A paragraph at the left margin."""
        text = self._shown(text)
        self.pdf.set_font(_FONT, "B" if bold else "", size)
        self.pdf.set_text_color(*color)
        self.pdf.multi_cell(0, size * 0.5, text, align="L", new_x="LMARGIN", new_y="NEXT")
        self.pdf.ln(after)

    def heading(self) -> None:
        """Title and warning, over the whole width."""
        self.write("Chest X-ray findings", 17, bold=True, after=2)
        report = self.document.report
        self.pdf.set_draw_color(*_WARN)
        self.pdf.set_line_width(0.5)
        top = self.pdf.get_y()
        self.pdf.set_y(top + 2)
        self.pdf.set_left_margin(_LEFT + 4)
        self.write(report.disclaimer, 10.5, bold=True, color=_WARN, after=0.3)
        self.write(self.document.unverified, 9, color=_WARN, after=0)
        self.pdf.set_left_margin(_LEFT)
        self.pdf.rect(_LEFT, top, _WIDTH, self.pdf.get_y() + 2 - top)
        self.pdf.set_y(self.pdf.get_y() + 8)

    def pictures(self, pictures: Sequence[tuple[DocumentImage, bytes]], top: float) -> None:
        """One below the other, as large as the column and the page let them."""
        y = top
        room = (_BOTTOM - top) / max(1, len(pictures)) - 9
        for place, (image, jpeg) in enumerate(pictures):
            with Image.open(io.BytesIO(jpeg)) as picture:
                ratio = picture.height / picture.width
            height = min(_PICTURES * ratio, room)
            self.pdf.image(io.BytesIO(jpeg), _LEFT, y, height / ratio, height)
            self._frames(place, y, height / ratio, height)
            y += height + 1
            self.pdf.set_xy(_LEFT, y)
            self.pdf.set_font(_FONT, "", 7.5)
            self.pdf.set_text_color(*_SOFT)
            self.pdf.cell(_PICTURES, 4, self._shown(image.caption))
            y += 8
        self.pdf.set_xy(_LEFT, top)

    def _frames(self, place: int, top: float, width: float, height: float) -> None:
        """The boxes on a picture that was set at the left margin."""
        self.pdf.set_draw_color(*_FRAME)
        self.pdf.set_line_width(0.4)
        for _, sentence in self.document.report.boxes:
            for box in sentence.shares() if sentence.image == place else ():
                left, upper = _LEFT + box.x_min * width, top + box.y_min * height
                right, lower = _LEFT + box.x_max * width, top + box.y_max * height
                self.pdf.rect(left, upper, right - left, lower - upper)

    def column(self, top: float) -> None:
        """Texts and bars beside the pictures."""
        document = self.document
        if document.images:
            self.pdf.set_left_margin(_LEFT + _PICTURES + _GAP)
        self.pdf.set_xy(self.pdf.l_margin, top)
        if document.indication:
            self._title("Indication")
            self.write(document.indication, self.size, after=3)
        self._title("Findings")
        for line in document.findings.splitlines():
            if line:
                self.write(line, self.size, after=1.5)
        self.pdf.ln(1.5)
        if document.report.grounding:
            self._title("Places")
            for line in document.report.places():
                self.write(line, max(6.0, self.size - 2), color=_SOFT, after=0.8)
            self.pdf.ln(3)
        if document.report.observations:
            self._title("Observations (probability)")
            for name, probability in document.report.observations.items():
                self._bar(name, probability)
            self.pdf.ln(3)
        if document.notes:
            self._title("Notes")
            for note in document.notes:
                self.write(note, max(6.0, self.size - 2), color=_SOFT, after=0.8)
        self.pdf.set_left_margin(_LEFT)

    def _shown(self, text: str) -> str:
        """A text whose signs the font has; others are escaped as in a Python string."""
        known = self._known
        return "".join(
            c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in text
        )

    def _title(self, text: str) -> None:
        self.write(text, self.size + 0.5, bold=True, after=0.8)

    def _bar(self, name: str, probability: float) -> None:
        pdf, height = self.pdf, self.size * 0.48
        pdf.set_font(_FONT, "", self.size - 1.5)
        names = self.document.report.observations
        label = max(pdf.get_string_width(self._shown(each)) for each in names) + 2
        x, number = pdf.l_margin, 9.0
        width = _LEFT + _WIDTH - x - label - number
        if pdf.will_page_break(height):
            pdf.add_page()
        y = pdf.get_y()
        pdf.set_text_color(*_INK)
        pdf.cell(label, height, self._shown(name))
        pdf.set_fill_color(228, 233, 238)
        pdf.rect(x + label, y + 0.25 * height, width, 0.5 * height, style="F")
        pdf.set_fill_color(*_BAR)
        filled = width * min(1.0, max(0.0, probability))
        pdf.rect(x + label, y + 0.25 * height, filled, 0.5 * height, style="F")
        pdf.set_xy(x + label + width, y)
        pdf.cell(number, height, f"{probability:.2f}", align="R")
        pdf.set_xy(x, y + height)

    def foot(self) -> None:
        """Model, study and time, at the end of the last page."""
        document, pdf = self.document, self.pdf
        pdf.set_auto_page_break(False)
        pdf.set_draw_color(*_SOFT)
        pdf.set_line_width(0.2)
        pdf.line(_LEFT, _FOOT, _LEFT + _WIDTH, _FOOT)
        pdf.set_xy(_LEFT, _FOOT + 1)
        hash_ = f", SHA-256 {document.model_hash}" if document.model_hash else ""
        self.write(f"Model {document.report.model}{hash_}", 6.5, color=_SOFT, after=0)
        when = document.written.strftime("%Y-%m-%d %H:%M %z")
        self.write(f"Study {document.study_name}, written {when}", 6.5, color=_SOFT, after=0)


def _jpeg(document: ReportDocument, image: DocumentImage) -> bytes:
    picture = Image.fromarray(document.picture(image))
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    return content.getvalue()
