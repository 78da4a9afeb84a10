"""From a report's sections to the text fields of a study, the same for every data set."""

from collections.abc import Mapping
from typing import Any

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.deidentification import masked_share, remove_marks
from llava_rad.data.sections import ReportSections
from llava_rad.readers import is_missing

# Findings with a larger share of masked words are noted: what is left may say something else.
MASKED_SHARE = 0.2

#: The extra fact that marks findings which stood in one section with the impression.
JOINT = "joint_section"

TEXT_FIELDS = ("indication", "technique", "comparison", "findings", "impression")


def text_fields(
    sections: ReportSections, study_id: str, log: ConversionLog, *, keep_marks: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """The text fields and the extra facts of a study.

    A text that only says that there is none ("N/A") is none. De-identification marks are removed
    unless ``keep_marks``; the original of findings or impression that were changed by that is in
    ``extra["findings_original"]`` and ``extra["impression_original"]``. A report without findings
    says why in ``extra["no_findings_reason"]``, and its free paragraph is ``extra["paragraph"]``:
    it is used as a target only by an explicit setting (:func:`llava_rad.data.select_targets`).
    Findings that stood in one section with the impression are marked by ``extra["joint_section"]``,
    and headers that were misspelt are listed in ``extra["misspelt_headers"]``.
    """
    fields: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for name in TEXT_FIELDS:
        original: str | None = getattr(sections, name)
        # Radiologists write "COMPARISON: None".
        if name != "comparison" and is_missing(original):
            original = None
        cleaned = original
        if original is not None and not keep_marks:
            learnt = name in ("findings", "impression")
            cleaned = remove_marks(original, context=not learnt) or None
        fields[name] = cleaned
        if name in ("findings", "impression") and original is not None and cleaned != original:
            extra[f"{name}_original"] = original
    if sections.findings is not None and masked_share(sections.findings) > MASKED_SHARE:
        log.note("findings_mostly_masked", study_id)
    reason = sections.no_findings_reason
    if reason is None and fields["findings"] is None:
        reason = "findings_empty" if is_missing(sections.findings) else "findings_only_marks"
    if reason is not None:
        log.note(reason, study_id)
        extra["no_findings_reason"] = reason
    if sections.combined and fields["findings"] is not None:
        log.note("findings_and_impression_in_one", study_id)
        extra[JOINT] = "findings and impression"
    for words in sections.misspelt:
        log.note(f"header_misspelt: {' '.join(words.split())}", study_id)
    if sections.misspelt:
        extra["misspelt_headers"] = "; ".join(
            " ".join(words.split()) for words in sections.misspelt
        )
    optional: Mapping[str, Any] = {
        "paragraph": sections.paragraph,
        "wet_read": sections.wet_read,
        "addenda": "\n".join(sections.addenda),
        "examination": sections.other.get("examination"),
    }
    extra |= {name: text for name, text in optional.items() if text}
    return fields, extra
