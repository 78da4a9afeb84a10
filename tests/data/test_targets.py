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
