"""Reports as Markdown (CommonMark, with tables as GitHub has them)."""

import re

from llava_rad.reports.formats.document import ReportDocument

# Signs that mean something within a line, and those that do at its start.
_INLINE = re.compile(r"([\\`*_\[\]<>|~&$#])")
_START = re.compile(r"^(\d*)([-+=.)])")


def write_markdown(document: ReportDocument) -> bytes:
    """A report as UTF-8 Markdown; whatever is in its texts is shown as text."""
    report = document.report
    lines = ["# Chest X-ray findings", ""]
    lines += [f"> **{_text(report.disclaimer)}** {_text(document.unverified)}", ""]
    if document.indication:
        lines += ["## Indication", "", _text(document.indication), ""]
    lines += ["## Findings", ""]
    for line in document.findings.splitlines():
        lines += [_text(line), ""] if line else []
    if report.grounding:
        lines += ["## Places", "", *(f"- {_text(line)}" for line in report.places()), ""]
    if report.observations:
        lines += ["## Observations", "", "| Observation | Probability |", "| --- | ---: |"]
        lines += [f"| {_text(name)} | {p:.2f} |" for name, p in report.observations.items()]
        lines.append("")
    if document.images:
        lines += ["## Images", "", *(f"- {_text(i.caption)}" for i in document.images), ""]
    if document.notes:
        lines += ["## Notes", "", *(f"- {_text(note)}" for note in document.notes), ""]
    written = document.written.isoformat(" ", "minutes")
    lines += ["---", ""]
    lines.append(_text(f"{document.model} · study {document.study_name} · written {written}"))
    return ("\n".join(lines) + "\n").encode()


def _text(text: str) -> str:
    return _START.sub(r"\1\\\2", _INLINE.sub(r"\\\1", text.strip()))
