"""Reports as plain text and as JSON, as ``llava-rad report`` prints them: they name the files."""

import json

from llava_rad.reports.formats.document import ReportDocument


def write_text(document: ReportDocument) -> bytes:
    """The text for people, in UTF-8."""
    return f"{document.report.to_text()}\n".encode()


def write_json(document: ReportDocument) -> bytes:
    """One line of JSON."""
    values = {**document.report.to_dict(), "model_hash": document.model_hash}
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
