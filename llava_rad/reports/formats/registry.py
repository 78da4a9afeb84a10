"""The formats by name: the writer, the ending of its files, what it needs."""

from collections.abc import Callable
from dataclasses import dataclass

from llava_rad.errors import ConfigError, shown
from llava_rad.extras import require
from llava_rad.reports.formats.dicom_sr import write_dicom_sr
from llava_rad.reports.formats.document import ReportDocument
from llava_rad.reports.formats.fhir import write_fhir
from llava_rad.reports.formats.markdown import write_markdown
from llava_rad.reports.formats.pdf import write_pdf
from llava_rad.reports.formats.text import write_json, write_text


@dataclass(frozen=True)
class ReportFormat:
    """A format of reports.

    Attributes:
        name: as ``--format`` takes it.
        write: gives the bytes of a file.
        ending: of its files' names.
        media_type: as HTTP names it.
        extra: that brings its packages, or None.
        is_binary: whether it is nothing for a terminal.
        needs_dicom: whether it refers to DICOM images, and so cannot be made of other files.
    """

    name: str
    write: Callable[[ReportDocument], bytes]
    ending: str
    media_type: str
    extra: str | None = None
    is_binary: bool = False
    needs_dicom: bool = False


#: All formats by name.
FORMATS = {
    made.name: made
    for made in (
        ReportFormat("text", write_text, ".txt", "text/plain; charset=utf-8"),
        ReportFormat("json", write_json, ".json", "application/json"),
        ReportFormat("markdown", write_markdown, ".md", "text/markdown; charset=utf-8"),
        ReportFormat("fhir", write_fhir, ".fhir.json", "application/fhir+json"),
        ReportFormat("pdf", write_pdf, ".pdf", "application/pdf", "formats", is_binary=True),
        ReportFormat(
            *("dicom-sr", write_dicom_sr, ".dcm", "application/dicom", "formats"),
            is_binary=True,
            needs_dicom=True,
        ),
    )
}


def report_format(name: str) -> ReportFormat:
    """The format of a name, its packages there.

    Raises:
        ConfigError: there is none of this name.
        MissingExtraError: its packages are not installed.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"there is no format {shown(name)}",
            remedy=f"Use one of {', '.join(FORMATS)}",
            kind="no_format",
        )
    found = FORMATS[name]
    if found.extra:
        require(found.extra, f"the format {name}")
    return found
