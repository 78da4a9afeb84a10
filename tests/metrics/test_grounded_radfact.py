"""RadFact with boxes: shares, means of reports and F1 worked out by hand."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_rad.boxes import Box
from llava_rad.errors import MetricError
from llava_rad.metrics.grounded_radfact import (
    evidence_prompt_hash,
    grounded_radfact,
    placed,
    read_evidence,
)
from llava_rad.metrics.judge_llm import RememberingJudge

LEFT, RIGHT, ALL = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1), Box(0, 0, 1, 1)


class SameWords:
    """A judge for whom a statement is said where the same words stand."""

    name = "same words"
    version = "1"

    def answer(self, prompts: Sequence[str]) -> list[str]:
        answers = []
        for prompt in prompts:
            listed = dict(re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE))
            phrase = prompt.split("same X-ray:\n")[1].split("\n")[0]
            answers.append(", ".join(n for n, said in listed.items() if said == phrase) or "0")
        return answers


@pytest.fixture
def judge(tmp_path: Path) -> RememberingJudge:
    return RememberingJudge(SameWords(), evidence_prompt_hash(), tmp_path)


def test_values_by_hand(judge: RememberingJudge) -> None:
    predicted = [
        [("Nodule.", [LEFT]), ("Effusion.", [LEFT]), ("Clear heart.", [])],
        [("Mass.", [ALL])],
        [],
    ]
    expected = [
        [("Nodule.", [ALL]), ("Effusion.", [RIGHT]), ("Scar.", [LEFT])],
        [("Mass.", [LEFT]), ("Clear heart.", [])],
        [("Clear heart.", [])],
    ]
    values = grounded_radfact(predicted, expected, judge=judge).values
    # First: nodule lies within its evidence, effusion beside it, the heart is not said.
    # Second: of ALL exactly half lies in LEFT, which is not more than half.
    assert values["logical_precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["grounding_precision"] == pytest.approx((1 / 2 + 0) / 2)
    assert values["spatial_precision"] == pytest.approx((1 / 2 + 0) / 2)
    # References: of the nodule's ALL half lies in LEFT; the scar is missed; the mass is covered.
    assert values["logical_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert values["grounding_recall"] == pytest.approx((0 + 1) / 2)
    assert values["spatial_recall"] == pytest.approx((0 + 1) / 2)
    assert values["spatial_f1"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)


def test_phrases_and_their_evidence_are_told(judge: RememberingJudge) -> None:
    result = grounded_radfact([[("A.", [LEFT])]], [[("B.", []), ("A.", [LEFT])]], judge=judge)
    assert result.details[0]["prediction"] == [{"phrase": "A.", "evidence": [2]}]
    assert "same words" in str(result.facts)


def test_the_place_counts_what_boxes_cover_once() -> None:
    assert placed([LEFT, LEFT], [LEFT]) and placed([ALL], [LEFT, Box(0.4, 0, 0.6, 1)])
    assert not placed([ALL], [LEFT]) and not placed([LEFT], []) and not placed([], [LEFT])


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("1, 3", [1, 3]),
        ("None: 0", []),
        ("Statement 2 and 2.", [2]),
        ("99", []),
        ("", []),
        ("None of the 3.", []),
        ("No; 3 says otherwise", []),
        ("12345", []),
        ("<think>3?</think> 1", [1]),
    ],
)
def test_numbers_of_an_answer(answer: str, numbers: list[int]) -> None:
    assert read_evidence(answer, 3) == numbers


def test_other_lengths_are_refused(judge: RememberingJudge) -> None:
    with pytest.raises(MetricError, match="phrases of 1 reports but of 0"):
        grounded_radfact([[]], [], judge=judge)
