"""Radiology reports taken apart into sections.

Reports are free text. A header counts as one when its words are known (:data:`_HEADERS`) and it
stands like a header: at the start of a line with a colon or dash behind it, alone on a line, or
inside a line when it is in capitals or follows the end of a sentence. Words such as "impression"
inside a sentence are never headers, and unknown headers ("LUNGS:") stay part of the section they
stand in, because structured findings are full of them.

A preliminary "wet read" and addenda are kept apart from the final report: their sections never
replace the final ones. What no header covers is the report's free paragraph, kept under a name of
its own and never taken for findings without being asked to.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_HEADERS = {
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "clinical information",
        "clinical history",
        "clinical details",
        "clinical data",
        "clinical question",
        "medical question",
        "patient history",
        "history",
        "reason",
        "reason for exam",
        "reason for examination",
        "reason for study",
        "reason for this examination",
    ),
    "technique": ("technique", "procedure", "procedure comments", "views"),
    "comparison": (
        "comparison",
        "comparisons",
        "comparison study",
        "comparison studies",
        "comparison film",
        "comparison films",
        "comparison image",
        "comparison exam",
        "prior",
        "priors",
    ),
    "examination": ("exam", "examination", "study", "type of examination", "narrative"),
    "findings": (
        "findings",
        "finding",
        "chest findings",
        "radiographic findings",
        "observations",
        "report",
    ),
    "impression": (
        "impression",
        "impressions",
        "conclusion",
        "conclusions",
        "opinion",
        "comment",
        "comments",
    ),
    "recommendation": ("recommendation", "recommendations", "recommendation(s)"),
    "notification": ("notification", "notifications"),
    "other": (
        "summary",
        "end of impression",
        "accession number",
        "attending",
        "signed by",
        "dictated by",
    ),
}
_SECTION_OF = {name: section for section, names in _HEADERS.items() for name in names}

_NAME = "|".join(
    re.escape(name).replace(r"\ ", r"[ \t]+") for name in sorted(_SECTION_OF, key=len, reverse=True)
)
# "FINDINGS AND IMPRESSION", "Indication/Comparison"
_NAMES = rf"(?:{_NAME})(?:[ \t]*(?:/|&|,|\band\b|\bor\b)[ \t]*(?:{_NAME})){{0,2}}"
_AT_LINE_START = re.compile(
    rf"^[ \t]*(?P<names>{_NAMES})[ \t]*(?:(?P<colon>:)|(?P<dash>[-–—](?=[ \t]|$))|(?P<bare>$))",
    re.IGNORECASE | re.MULTILINE,
)
_IN_LINE = re.compile(rf"(?<=[.!?\s])(?P<names>{_NAMES})[ \t]*:", re.IGNORECASE)
# "PORTABLE AP CHEST:", "PA AND LATERAL VIEWS OF THE CHEST:": some reports have no other header.
_VIEW_HEADER = re.compile(
    r"^[ \t]*(?=[^:\n]*\b(?i:chest|cxr)\b)[A-Z0-9][A-Za-z0-9 ,/&()\-]{3,70}:", re.MULTILINE
)

_PART = re.compile(
    r"^[ \t]*(?:(?P<final>final report|report)[ \t]*$"
    r"|(?P<wet>(?:wet read(?:ing)?|preliminary (?:report|read(?:ing)?))[ \t]*(?::|$)"
    # the name and time of who read it
    r"(?:[^\n]{0,60}?\d{1,2}:\d{2}[ \t]*[AP]M)?)"
    r"|(?P<addendum>(?:final[ \t]+)?addend(?:um|a)(?:[ \t]*#?[ \t]*\d+)?[ \t]*"
    r"(?::|$|(?:by|dictated|date|on)\b[^\n:]{0,60}:))"
    r"|(?P<rule>[_=\-]{8,}[ \t]*$))",
    re.IGNORECASE | re.MULTILINE,
)
_ADDENDUM_IN_LINE = re.compile(r"(?<=[.!?])[ \t]+(?=(?:FINAL )?ADDENDUM:)")
# The text of a section that only points to another one.
_POINTS_ELSEWHERE = re.compile(
    r"^(?:(?:please )?(?:see|refer to)|as|per)(?: the)? (?:impression|above|below|conclusion)\.?$",
    re.IGNORECASE,
)

_LIST_NUMBER = re.compile(
    r"(?:^|(?<=\n)|(?<=[.;:!?])[ \t]+)[ \t]*\(?(\d{1,2})[.)](?!\d)[ \t]*(?=\S)"
)
_BULLET = re.compile(r"^[ \t]*[-*•·–][ \t]+", re.MULTILINE)


@dataclass(frozen=True)
class ReportSections:
    """A report's sections; absent ones are None.

    Attributes:
        indication: why the study was made (also "history", "reason for exam" ...).
        technique: how it was made.
        comparison: what it was compared with.
        findings: what is seen.
        impression: the conclusion.
        paragraph: final text that stands under no header and is prose, not a title.
        wet_read: the preliminary reading.
        addenda: texts added after the report was signed, in order.
        other: further sections by name (``"examination"``, ``"recommendation"``,
            ``"notification"``, ``"other"``).
        combined: findings and impression stood under one header; the text is in ``findings``.
        no_findings_reason: why ``findings`` is None: ``"no_findings_header"`` (there is
            free text), ``"findings_only_in_impression"``, ``"findings_empty"`` (a header without
            text, or one that says "see impression"), ``"no_text"``, or an adapter's own. None if
            there are findings.
    """

    indication: str | None = None
    technique: str | None = None
    comparison: str | None = None
    findings: str | None = None
    impression: str | None = None
    paragraph: str | None = None
    wet_read: str | None = None
    addenda: tuple[str, ...] = ()
    other: Mapping[str, str] = field(default_factory=dict)
    combined: bool = False
    no_findings_reason: str | None = None


def parse_report(text: str) -> ReportSections:
    """Take a report apart.

    List numbers, bullets and line breaks are gone from the sections; measurements and
    de-identification marks stay (:mod:`llava_rad.data.deidentification` removes those).
    """
    final, wet_reads, addenda = _parts(text.replace("\r\n", "\n").replace("\r", "\n"))
    sections, combined, had_findings_header = _sections(final)
    free = sections.pop("", "")
    if "findings" not in sections and not had_findings_header:
        described = _under_view_header(free)
        if described:
            free, sections["findings"] = described
    texts = {name: tidy(text) for name, text in sections.items()}
    paragraph = tidy(_prose(free))
    findings = texts.pop("findings", "")
    if _POINTS_ELSEWHERE.match(findings):
        findings, had_findings_header = "", True
    reason = None if findings else "findings_empty"
    if not findings and not had_findings_header:
        reason = missing_findings(texts.get("impression"), paragraph)
    named = {name: texts.pop(name, "") or None for name in ("indication", "technique")}
    named |= {name: texts.pop(name, "") or None for name in ("comparison", "impression")}
    return ReportSections(
        **named,
        findings=findings or None,
        paragraph=paragraph or None,
        wet_read=tidy("\n".join(wet_reads)) or None,
        addenda=tuple(filter(None, map(tidy, addenda))),
        other={name: text for name, text in texts.items() if text},
        combined=combined and bool(findings),
        no_findings_reason=reason,
    )


def with_given(report: ReportSections, given: Mapping[str, str | None]) -> ReportSections:
    """The report with the sections that a table gives on their own; these win where not empty."""
    texts: dict[str, Any] = {name: tidy(text) for name, text in given.items() if text}
    merged = replace(report, **{name: text for name, text in texts.items() if text})
    if merged.findings != report.findings:
        return replace(merged, combined=False, no_findings_reason=None)
    if merged.findings is None and report.no_findings_reason != "findings_empty":
        reason = missing_findings(merged.impression, merged.paragraph)
        return replace(merged, no_findings_reason=reason)
    return merged


def missing_findings(impression: str | None, paragraph: str | None = None) -> str:
    """Why a report without a findings header has no findings (``no_findings_reason``)."""
    if paragraph:
        return "no_findings_header"
    return "findings_only_in_impression" if impression else "no_text"


def tidy(text: str) -> str:
    """A section's text as running prose: no list numbers, bullets, line breaks, double spaces."""
    text = _BULLET.sub("", _without_list_numbers(text))
    return " ".join(text.split())


def _parts(text: str) -> tuple[str, list[str], list[str]]:
    """The final report, wet reads and addenda of a document."""
    text = _ADDENDUM_IN_LINE.sub("\n", text)
    parts: dict[str, list[str]] = {"final": [], "wet": [], "addendum": []}
    kind, start = "final", 0
    for mark in _PART.finditer(text):
        parts[kind].append(text[start : mark.start()])
        start = mark.end()
        if mark["wet"]:
            kind = "wet"
        elif mark["addendum"]:
            kind = "addendum"
        else:
            kind = "final"
    parts[kind].append(text[start:])
    return "\n".join(parts["final"]), parts["wet"], parts["addendum"]


def _sections(text: str) -> tuple[dict[str, str], bool, bool]:
    """Section name to raw text; the text before the first header is under the empty name."""
    headers = _headers(text)
    first = headers[0][0] if headers else len(text)
    found = {"": [text[:first]]} if text[:first].strip() else {}
    combined = had_findings_header = False
    for place, (_, end, names) in enumerate(headers):
        stop = headers[place + 1][0] if place + 1 < len(headers) else len(text)
        sections = [_SECTION_OF[" ".join(name.lower().split())] for name in names]
        section = "findings" if "findings" in sections else sections[0]
        had_findings_header |= section == "findings"
        content = text[end:stop].strip()
        if content:
            combined |= section == "findings" and "impression" in sections
            found.setdefault(section, []).append(content)
    return {name: "\n".join(texts) for name, texts in found.items()}, combined, had_findings_header


def _headers(text: str) -> list[tuple[int, int, list[str]]]:
    """(start, end, names) of each header, in order."""
    found: dict[int, tuple[int, int, list[str]]] = {}
    for match in _AT_LINE_START.finditer(text):
        start = match.start("names")
        before = text[: match.start()].rstrip()
        after_sentence = not before or before[-1] in ".!?:"
        after_blank = bool(re.search(r"(?:^|\n)[ \t]*\n[ \t]*$", text[: match.start()] or "\n\n"))
        capital = match["names"][0].isupper()
        if match["colon"]:
            # A lower-case word at the start of a wrapped line is part of a sentence.
            stands = capital or after_sentence or after_blank
        else:
            stands = (after_sentence or after_blank) and (capital or match["dash"] is not None)
        if stands:
            found[start] = (start, match.end(), _split_names(match["names"]))
    for match in _IN_LINE.finditer(text):
        start = match.start("names")
        after_sentence = text[:start].rstrip()[-1:] in (".", "!", "?")
        if start not in found and (match["names"].isupper() or after_sentence):
            found[start] = (start, match.end(), _split_names(match["names"]))
    return _without_overlaps(sorted(found.values()))


def _without_overlaps(
    headers: list[tuple[int, int, list[str]]],
) -> list[tuple[int, int, list[str]]]:
    kept: list[tuple[int, int, list[str]]] = []
    for header in headers:
        if not kept or header[0] >= kept[-1][1]:
            kept.append(header)
    return kept


def _split_names(names: str) -> list[str]:
    return [
        name
        for name in re.split(r"[ \t]*(?:/|&|,|\band\b|\bor\b)[ \t]*", names, flags=re.IGNORECASE)
        if name
    ]


def _under_view_header(free: str) -> tuple[str, str] | None:
    """(text before, text below) a header that names the view, if prose stands below it."""
    for match in _VIEW_HEADER.finditer(free):
        below = free[match.end() :]
        if _prose(below):
            return free[: match.start()], below
    return None


def _prose(text: str) -> str:
    """The paragraphs of a text that hold a sentence; titles such as "PORTABLE CHEST" go."""
    paragraphs = re.split(r"\n[ \t]*\n", text)
    return "\n".join(p for p in paragraphs if re.search(r"\w[.!?](?:\s|$)", p) and " " in p.strip())


def _without_list_numbers(text: str) -> str:
    """Remove "1.", "2)" ... where they count up from 1 at the start of lines or sentences."""
    expected = 1
    kept: list[str] = []
    start = 0
    for match in _LIST_NUMBER.finditer(text):
        number = int(match[1])
        if number not in (1, expected):
            continue
        expected = number + 1
        kept.append(text[start : match.start()])
        # Keep what separated the items.
        kept.append(" " if match.start() and not text[match.start() - 1].isspace() else "")
        start = match.end()
    kept.append(text[start:])
    return "".join(kept)
