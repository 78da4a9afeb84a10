"""Which text of each study a model is trained on or judged by; never an empty one."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from llava_rad.data.study import Study
from llava_rad.errors import DataError

Section = Literal["findings", "impression"]


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
    fallback: Literal["impression", "paragraph"] | None = None,
) -> TargetSelection:
    """Choose each study's target text.

    Args:
        studies: the studies.
        section: the section that is the target.
        fallback: what stands in where a study lacks the section: its impression, or the text of a
            report without headers. Without one such studies are left out and counted.

    Raises:
        DataError: no study has a target.
    """
    selection = TargetSelection([], [])
    for study in studies:
        text = getattr(study, section)
        if text is None and fallback == "paragraph":
            text = study.extra.get("paragraph")
        elif text is None and fallback == "impression":
            text = study.impression
        if text is None or not text.strip():
            reason = study.extra.get("no_findings_reason") if section == "findings" else None
            selection.left_out.setdefault(reason or f"no_{section}", []).append(study.study_id)
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
