"""No empty target reaches a trainer, and what is left out is counted by reason."""

import pytest

from llava_rad.data import Study, select_targets
from llava_rad.errors import DataError

STUDIES = [
    Study("a", "a", findings="Clear.", impression="Normal."),
    Study("b", "b", impression="Edema.", extra={"no_findings_reason": "findings_empty"}),
    Study(
        "c", "c", extra={"no_findings_reason": "no_findings_header", "paragraph": "Lungs clear."}
    ),
    Study("d", "d"),
]


@pytest.mark.parametrize(
    ("options", "texts", "reasons"),
    [
        (
            {},
            ["Clear."],
            {"findings_empty": ["b"], "no_findings_header": ["c"], "no_findings": ["d"]},
        ),
        (
            {"fallback": "paragraph"},
            ["Clear.", "Lungs clear."],
            {"findings_empty": ["b"], "no_findings": ["d"]},
        ),
        (
            {"fallback": "impression"},
            ["Clear.", "Edema."],
            {"no_findings_header": ["c"], "no_findings": ["d"]},
        ),
        ({"section": "impression"}, ["Normal.", "Edema."], {"no_impression": ["c", "d"]}),
    ],
)
def test_targets(options: dict, texts: list[str], reasons: dict[str, list[str]]) -> None:
    selection = select_targets(STUDIES, **options)
    assert selection.texts == texts
    assert len(selection.studies) == len(texts)
    assert selection.left_out == reasons


def test_summary_names_every_reason() -> None:
    assert select_targets(STUDIES).summary() == (
        "1 kept, 3 left out (findings_empty: 1, no_findings_header: 1, no_findings: 1)"
    )


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="0 kept, 1 left out"):
        select_targets(STUDIES[3:])


JOINT = Study(
    "j", "j", findings="Clear. Normal.", extra={"joint_section": "findings and impression"}
)
ADDED = Study("k", "k", findings="New effusion. Heart normal.", extra={"addenda": "Told Dr. B."})
COMPARED = Study("l", "l", findings="Unchanged.", impression="Stable.")


@pytest.mark.parametrize(
    ("options", "texts", "reasons"),
    [
        (
            {},
            ["Clear.", "New effusion. Heart normal.", "Unchanged."],
            {"findings_and_impression_in_one": ["j"]},
        ),
        (
            {"use_joint_sections": True},
            ["Clear.", "Clear. Normal.", "New effusion. Heart normal.", "Unchanged."],
            {},
        ),
        (
            {"section": "findings_and_impression"},
            ["Clear. Normal.", "Clear. Normal.", "Unchanged. Stable."],
            {"no_findings_and_impression": ["k"]},
        ),
        (
            {"drop_prior_comparisons": True},
            ["Clear.", "Heart normal."],
            {"findings_and_impression_in_one": ["j"], "only_prior_comparisons": ["l"]},
        ),
        (
            {"leave_out_addenda": True},
            ["Clear.", "Unchanged."],
            {"findings_and_impression_in_one": ["j"], "has_addendum": ["k"]},
        ),
        ({"section": "impression"}, ["Normal.", "Stable."], {"no_impression": ["j", "k"]}),
    ],
)
def test_settings(options: dict, texts: list[str], reasons: dict[str, list[str]]) -> None:
    selection = select_targets([STUDIES[0], JOINT, ADDED, COMPARED], **options)
    assert selection.texts == texts
    assert selection.left_out == reasons
