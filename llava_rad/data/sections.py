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

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llava_rad.data.header_spelling import meant_header

_HEADERS = {
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "clinical indications",
        "clin hx",
        "clinical hx",
        "hx",
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
        "imp",
        "impr",
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
_LAST_WORDS = tuple({name.split()[-1] for name in _SECTION_OF})
_LONGEST_NAMES = 3 * max(map(len, _SECTION_OF)) + 2 * len(" and ") + len(" :")
# "PORTABLE AP CHEST:", "PA AND LATERAL VIEWS OF THE CHEST:": some reports have no other header.
_VIEW_HEADER = re.compile(
    r"^[ \t]*(?=[^:\n]*\b(?i:chest|cxr)\b)[A-Z0-9][A-Za-z0-9 ,/&()\-]{3,70}:", re.MULTILINE
)

# What is added or changed after the report was signed.
_ADDED = (
    r"(?:addend(?:um|a|ums)|addended report|amend(?:ments?|ed report)|corrections?"
    r"|corrected report|errat(?:um|a)|revisions?|revised report)"
)
_PART = re.compile(
    r"^ ?(?:(?P<final>[*=#<\[ ]{0,5}(?:final|original|end of (?:final )?addend(?:um|a))"
    r"(?: report)?[*=#>\] ]{0,5}:? ?$|report ?$)"
    r"|(?P<wet>(?:wet read(?:ing)?|preliminary (?:report|read(?:ing)?))"
    r"(?: version)?(?: ?#? ?\d{1,2})?(?: ?:| ?$|(?= [^\n]{0,60}?\d{1,2}:\d{2} ?[AP]M))"
    # the name and time of who read it
    r"(?:[^\n]{0,60}?\d{1,2}:\d{2} ?[AP]M)?)"
    # "ADDENDUM:", "**ADDENDUM**", "Addendum #2 (Dr. A):", "ADDENDUM by Dr. A on 1/2:"
    rf"|(?P<addendum>(?P<mark>[*=#<\[-]{{1,5}} ?)?(?:final )?{_ADDED}(?: ?#? ?\d{{1,2}})?"
    r"(?: ?\([^()\n]{0,60}\))?"
    r"(?: ?:| ?$|(?(mark) ?[*=#>\]-]{1,5}:?|(?!))"
    r"| (?:by|dictated|date|dated|on|begins?|starts?)\b[^\n:]{0,60}(?::|$)))"
    r"|(?P<rule>[_=\-*~]{8,} ?$))",
    re.IGNORECASE | re.MULTILINE,
)
_ADDENDUM_IN_LINE = re.compile(
    r"(?<=[.!?]) (?=(?:[*=#]{1,5} ?)?(?:FINAL )?(?:ADDENDUM|AMENDMENT|CORRECTION|ERRATUM)"
    r"(?: ?\([^()\n]{0,60}\))?(?: ?[*=#]{1,5})? ?:)"
)
# Lines that only rule: "-----", "* * * *", "====== ======". Groups of three underscores, with
# spaces between, are de-identification marks.
_RULE_LINE = re.compile(
    r"^ ?(?:([_=\-*~#.–—])\1{4,}(?: \1+)*|[=\-*~#–—_](?: [=\-*~#–—_]){3,}) ?$", re.MULTILINE
)
# A rule that lost its line breaks.
_RULE_IN_LINE = re.compile(r"[_=\-*~]{8,}")
# A word or words before a colon, or alone on a line in capitals: perhaps a misspelt header.
_PERHAPS_AT_LINE_START = re.compile(
    r"^ ?(?P<names>[A-Za-z0-9][A-Za-z0-9/&, ]{4,48}?)(?: ?(?P<colon>:)| ?$)", re.MULTILINE
)
_PERHAPS_IN_LINE = re.compile(r"(?<=[.!?:] )(?P<names>[A-Z0-9][A-Za-z0-9/&, ]{4,48}?) ?:")
_AND = re.compile(r" ?(?:/|&|,|\band\b|\bor\b) ?", re.IGNORECASE)
# The text of a section that only points to another one.
_POINTS_ELSEWHERE = re.compile(
    r"^(?:(?:please )?(?:see|refer to)|as|per)(?: the)? (?:impression|above|below|conclusion)\.?$",
    re.IGNORECASE,
)

# All but single spaces, which need no change.
_UNEVEN = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_LIST_NUMBER = re.compile(
    r"(?:^|(?<=\n)|(?<=[.;:!?])[ \t]+)[ \t]*\(?(\d{1,2})[.)](?!\d)[ \t]*(?=\S)"
)
_BULLET = re.compile(r"^[ \t]*[-*•·–][ \t]+", re.MULTILINE)
# What running prose does not hold: line breaks, bullets, rules, list numbers.
_UNTIDY = re.compile(r"[\n\r]|^\s*[-*•·–]\s|[_=*~#–—-](?:\s*[_=*~#–—-]){3}|\.{5}|\d[.)](?!\d)")


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
        misspelt: headers that were taken for the known ones that they are close to, as written.
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
    misspelt: tuple[str, ...] = ()
    no_findings_reason: str | None = None


def parse_report(text: str) -> ReportSections:
    """Take a report apart.

    List numbers, bullets and line breaks are gone from the sections; measurements and
    de-identification marks stay (:mod:`llava_rad.data.deidentification` removes those).
    """
    final, wet_reads, addenda = _parts(_even(text))
    headers = _headers(final)
    misspelt = tuple(header.text for header in headers if header.misspelt)
    sections, combined, had_findings_header = _sections(final, headers)
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
        misspelt=misspelt,
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
    """A section's text as running prose: no list numbers, bullets, rules, line breaks."""
    if _UNTIDY.search(text):
        text = _RULE_IN_LINE.sub(" ", _RULE_LINE.sub("", _even(text)))
        text = _BULLET.sub("", _without_list_numbers(text))
    return " ".join(text.split())


def _even(text: str) -> str:
    """The text with one kind of line break, one blank line and one space where there are more.

    What follows looks a few characters back and forth; this keeps a report of a hundred thousand
    spaces as quick as any other.
    """
    text = _UNEVEN.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"\n{3,}", "\n\n", text.replace(" \n", "\n").replace("\n \n", "\n\n"))


def _parts(text: str) -> tuple[str, list[str], list[str]]:
    """The final report, wet reads and addenda of a document."""
    text = _ADDENDUM_IN_LINE.sub("\n", text)
    parts: dict[str, list[str]] = {"final": [], "wet": [], "addendum": []}
    kind, start = "final", 0
    for mark in _PART.finditer(text):
        bare = mark["addendum"] and mark[0][-1:] != ":" and not mark["mark"]
        if bare and not mark["addendum"].lstrip()[0].isupper():
            continue  # the last word of a wrapped line
        parts[kind].append(text[start : mark.start()])
        start = mark.end()
        if mark["wet"]:
            kind = "wet"
        elif mark["addendum"]:
            kind = "addendum"
        else:
            kind = "final"
    parts[kind].append(text[start:])
    final = "\n".join(parts["final"])
    if not final.strip() and parts["addendum"]:
        parts["addendum"][-1], final = _report_below(parts["addendum"][-1])
    return final, parts["wet"], parts["addendum"]


def _report_below(addendum: str) -> tuple[str, str]:
    """An addendum and the report that stands right below it, with no mark between."""
    headers = _headers(addendum)
    for place, header in enumerate(headers):
        sections = {name for later in headers[place:] for name in later.sections}
        whole = len(sections) > 1 and sections & {"findings", "impression"}
        if whole and addendum[: header.start].endswith("\n\n"):
            return addendum[: header.start], addendum[header.start :]
    return addendum, ""


@dataclass(frozen=True)
class _Header:
    """A header's place, its words, and the sections that they name."""

    start: int
    end: int
    text: str
    sections: tuple[str, ...]
    misspelt: bool = False


def _sections(text: str, headers: list[_Header]) -> tuple[dict[str, str], bool, bool]:
    """Section name to raw text; the text before the first header is under the empty name."""
    first = headers[0].start if headers else len(text)
    found = {"": [text[:first]]} if text[:first].strip() else {}
    combined = had_findings_header = False
    for place, header in enumerate(headers):
        stop = headers[place + 1].start if place + 1 < len(headers) else len(text)
        sections = header.sections
        section = "findings" if "findings" in sections else sections[0]
        had_findings_header |= section == "findings"
        content = text[header.end : stop].strip()
        if content:
            combined |= section == "findings" and "impression" in sections
            found.setdefault(section, []).append(content)
    return {name: "\n".join(texts) for name, texts in found.items()}, combined, had_findings_header


def _headers(text: str) -> list[_Header]:
    """The headers of a text, in order; what :func:`_even` returns is expected."""
    found: dict[int, _Header] = {}
    for match in _AT_LINE_START.finditer(text):
        if _stands(text, match, dash=match["dash"] is not None):
            found[match.start("names")] = _header(match)
    for match in _in_lines(text):
        start = match.start("names")
        after_sentence = text[max(start - 2, 0) : start].rstrip()[-1:] in (".", "!", "?")
        if start not in found and (match["names"].isupper() or after_sentence):
            found[start] = _header(match)
    for pattern in (_PERHAPS_AT_LINE_START, _PERHAPS_IN_LINE):
        for match in pattern.finditer(text):
            header = None if match.start("names") in found else _misspelt_header(text, match)
            if header is not None:
                found[header.start] = header
    return _without_overlaps([found[start] for start in sorted(found)])


def _in_lines(text: str) -> Iterator[re.Match[str]]:
    """What :data:`_IN_LINE` finds, looked for only where a header's last word has a colon."""
    begun, colon = 0, text.find(":")
    while colon >= 0:
        window = max(begun, colon - _LONGEST_NAMES)
        if text[window:colon].rstrip().casefold().endswith(_LAST_WORDS):
            match = _IN_LINE.search(text, window, colon + 1)
            if match:
                begun = match.end()
                yield match
        colon = text.find(":", colon + 1)


def _stands(text: str, match: re.Match[str], *, dash: bool = False) -> bool:
    """Whether what looks like a header at the start of a line is one."""
    before = text[max(match.start() - 3, 0) : match.start()]
    after_sentence = not before.strip() or before.rstrip()[-1] in ".!?:"
    after_blank = match.start() < 2 or before.endswith("\n\n")
    capital = match["names"][0].isupper()
    if match["colon"]:
        # A lower-case word at the start of a wrapped line is part of a sentence.
        return capital or after_sentence or after_blank
    return (after_sentence or after_blank) and (capital or dash)


def _header(match: re.Match[str]) -> _Header:
    names = tuple(_SECTION_OF[name] for name in _split_names(match["names"]))
    return _Header(match.start("names"), match.end(), match["names"], names)


def _misspelt_header(text: str, match: re.Match[str]) -> _Header | None:
    words = match["names"].strip()
    groups = match.groupdict()
    if "colon" in groups:
        alone = groups["colon"] is None
        if (alone and not words.isupper()) or not _stands(text, match):
            return None
    sections = []
    changed = False
    for name in _split_names(words):
        close = _meant(name)
        if close is None:
            return None
        changed |= close != name
        sections.append(_SECTION_OF[close])
    if not changed or len(sections) > 3:
        return None
    return _Header(match.start("names"), match.end(), words, tuple(sections), misspelt=True)


def _without_overlaps(headers: list[_Header]) -> list[_Header]:
    kept: list[_Header] = []
    for header in headers:
        if not kept or header.start >= kept[-1].end:
            kept.append(header)
    return kept


@functools.lru_cache(maxsize=1024)
def _split_names(names: str) -> tuple[str, ...]:
    """The names in "FINDINGS AND IMPRESSION", lower case, single spaces."""
    return tuple(" ".join(name.lower().split()) for name in _AND.split(names) if name.strip())


@functools.lru_cache(maxsize=1024)
def _meant(name: str) -> str | None:
    return name if name in _SECTION_OF else meant_header(name, _SECTION_OF)


def _under_view_header(free: str) -> tuple[str, str] | None:
    """(text before, text below) a header that names the view, if prose stands below it."""
    for match in _VIEW_HEADER.finditer(free):
        below = free[match.end() :]
        if _prose(below):
            return free[: match.start()], below
    return None


def _prose(text: str) -> str:
    """The paragraphs of a text that hold a sentence; titles such as "PORTABLE CHEST" go."""
    paragraphs = _even(text).split("\n\n")
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
