"""Formats of reports: each is a function that gives the bytes of a file for a report.

:mod:`document` gathers what a document says, :mod:`registry` has the writer of each name, and each
format is one file. The writers import their libraries when they are called.

Example:
    >>> from llava_rad.data import expand_inputs
    >>> from llava_rad.reports.formats import FORMATS, report_document
    >>> [study] = expand_inputs(["chest.dcm"])
    >>> report = model.report(study)
    >>> content = FORMATS["markdown"].write(report_document(report, study, model))
    >>> content.decode().splitlines()[0]
    '# Chest X-ray findings'
"""

from llava_rad.reports.formats.document import DocumentImage, ReportDocument, report_document
from llava_rad.reports.formats.registry import FORMATS, ReportFormat, report_format

__all__ = [
    "FORMATS",
    "DocumentImage",
    "ReportDocument",
    "ReportFormat",
    "report_document",
    "report_format",
]
