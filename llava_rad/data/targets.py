"""Which text of each study a model is trained on or judged by; never an empty one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from llava_rad.data.prior_comparisons import without_prior_comparisons
from llava_rad.data.report_text import JOINT
from llava_rad.data.rexrank import ROW, sections_of
from llava_rad.data.study import Study
from llava_rad.errors import DataError
from llava_rad.readers import is_missing

Section = Literal["findings", "impression", "findings_and_impression"]
Fallback = Literal["impression", "paragraph"]

#: What a model can be trained to write and judged by.
SECTIONS: tuple[str, ...] = get_args(Section)


@dataclass(frozen=True)
class TargetSelection:
    """Studies with their target texts, and those left out.

    Attributes:
        studies: the studies that have a target.
        texts: their target texts, none empty.
        left_out: reason to the ids of the studies without one.
    """

    studies: list[Study]
    texts: list[str]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for the log: how many are kept, and how many are left out for each reason."""
        reasons = ", ".join(f"{reason}: {len(ids)}" for reason, ids in self.left_out.items())
        left_out = sum(map(len, self.left_out.values()))
        return f"{len(self.studies)} kept, {left_out} left out" + (
            f" ({reasons})" if reasons else ""
        )


def select_targets(
    studies: Iterable[Study],
    *,
    section: Section = "findings",
    fallback: Fallback | None = None,
    use_joint_sections: bool = False,
    drop_prior_comparisons: bool = False,
    leave_out_addenda: bool = False,
    headed: bool = False,
) -> TargetSelection:
    """Choose each study's target text.

    Args:
        studies: the studies.
        section: the section that is the target. ``findings_and_impression`` is both, one after the
            other, or the text of a report that has them in one section.
        fallback: what stands in where a study lacks the section: its impression, or the text of a
            report without headers. Without one such studies are left out and counted.
        use_joint_sections: a text that is findings and impression in one counts as findings;
            otherwise such studies are left out as ``findings_and_impression_in_one``.
        drop_prior_comparisons: leave sentences out that compare with an earlier image
            (:mod:`llava_rad.data.prior_comparisons`), and studies of which nothing is left.
        leave_out_addenda: leave studies out whose report was added to after it was signed.
        headed: findings and impression with their headers, as :func:`headed_report` writes them;
            studies that lack one of them are kept.

    Raises:
        DataError: no study has a target.
    """
    selection = TargetSelection([], [])
    for study in studies:
        text, reason = _target(study, section, fallback, use_joint_sections, headed)
        if text is not None and leave_out_addenda and study.extra.get("addenda"):
            text, reason = None, "has_addendum"
        if text is not None and drop_prior_comparisons:
            text, reason = without_prior_comparisons(text) or None, "only_prior_comparisons"
        if text is None:
            selection.left_out.setdefault(reason, []).append(study.study_id)
        else:
            selection.studies.append(study)
            selection.texts.append(text)
    if not selection.studies:
        raise DataError(
            f"no study has {section}: {selection.summary()}",
            remedy="Choose another section, or a fallback, for this data set",
            kind="no_target",
        )
    return selection


def headed_report(findings: str | None, impression: str | None) -> str:
    """Both sections with their headers, as ReXrank's references are: None is written as a word.

    Example:
        >>> from llava_rad.data.targets import headed_report
        >>> headed_report("No effusion.", None)
        'Findings: No effusion. Impression: None'
    """
    return f"Findings: {findings} Impression: {impression}"


def _target(
    study: Study, section: Section, fallback: Fallback | None, use_joint: bool, headed: bool
) -> tuple[str | None, str]:
    """A study's text, or None and the reason that it has none."""
    joint = JOINT in study.extra
    reason = f"no_{section}"
    if section == "findings_and_impression" and headed:
        of_file = study.extra.get(ROW)
        sections = (
            sections_of(json.loads(of_file)) if of_file else (study.findings, study.impression)
        )
        return (None, reason) if all(map(is_missing, sections)) else (headed_report(*sections), "")
    if section == "findings_and_impression":
        parts = [study.findings] if joint else [study.findings, study.impression]
        texts = [text for text in parts if text is not None and text.strip()]
        return (" ".join(texts), "") if len(texts) == len(parts) else (None, reason)
    text = getattr(study, section)
    if section == "findings":
        reason = study.extra.get("no_findings_reason", reason)
        if joint and not use_joint:
            text, reason = None, "findings_and_impression_in_one"
    if text is None and fallback is not None:
        text = study.impression if fallback == "impression" else study.extra.get("paragraph")
    return (text, "") if text is not None and text.strip() else (None, reason)
