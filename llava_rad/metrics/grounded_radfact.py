"""RadFact with boxes (Bannur et al., arXiv:2406.04449): are true statements in the right place?

For each phrase of the one report a judge names the phrases of the other that say it: its evidence.
A phrase with boxes is spatially entailed if it is entailed and more than half of the area that its
boxes cover lies in boxes of its evidence. Of each report that has such phrases:

- *grounding*: the share of its entailed phrases with boxes that are spatially entailed,
- *spatial*: that share of all its phrases with boxes.

Precision is the mean over the predictions, recall that over the references, F1 of the two means.
*Logical* scores are RadFact's on the same phrases. RadFact counts pixels of a 224 x 224 raster,
here areas are exact. The prompt is this project's (see :mod:`llava_rad.metrics.radfact`).
"""

import re
from collections.abc import Sequence

import numpy as np

from llava_rad.boxes import Box, area_of, common_area
from llava_rad.errors import MetricError
from llava_rad.metrics.judge_llm import RememberingJudge, conclusion, hash_of
from llava_rad.metrics.result import Details, Floats, MetricResult, harmonic, ratio

NAME = "grounded_radfact"
HEADLINES = tuple(
    f"{kind}_{value}"
    for kind in ("grounding", "spatial")
    for value in ("precision", "recall", "f1")
)
DEFINITION = (
    "RadFact with boxes (Bannur 2024): of the phrases with boxes, the share that is true and whose "
    "boxes lie by more than half in those of its evidence (spatial), and of the true ones alone "
    "(grounding), by a judge that the output names; mean of reports; 0 to 1"
)
_INSIDE = 0.5
EVIDENCE = """Here are all statements of one chest X-ray report, with numbers:
{premises}

Another statement about the same X-ray:
{phrase}

Which of the numbered statements say that this is true? What they do not mention is not said.
Answer with their numbers, such as: 1, 3. Answer 0 if none does.
"""

#: A statement and its boxes, in shares of the picture; none where it has none.
Phrase = tuple[str, Sequence[Box]]


def evidence_prompt_hash() -> str:
    """SHA-256 of the wording around the phrases."""
    return hash_of(EVIDENCE)


def grounded_radfact(
    predicted: Sequence[Sequence[Phrase]],
    expected: Sequence[Sequence[Phrase]],
    *,
    judge: RememberingJudge,
) -> MetricResult:
    """Logical, grounding and spatial precision, recall and F1.

    Args:
        predicted: phrases of each generated report.
        expected: those of the true ones, in the same order.
        judge: says which phrases are the evidence of another.

    Returns:
        Values ``logical_precision`` to ``spatial_f1``; the details of a pair are its phrases with
        their evidence.

    Raises:
        MetricError: the lists are not equally long, or empty.
    """
    if len(predicted) != len(expected) or not expected:
        raise MetricError(
            f"phrases of {len(predicted)} reports but of {len(expected)} true ones",
            where=NAME,
            remedy="Give the phrases of each report, in the same order",
            kind="length_mismatch",
        )
    ways = [*zip(predicted, expected, strict=True), *zip(expected, predicted, strict=True)]
    asked = [
        EVIDENCE.replace("{premises}", _numbered(premises), 1).replace("{phrase}", phrase, 1)
        for stated, premises in ways
        if premises
        for phrase, _ in stated
    ]
    said = iter(judge.answer(asked))
    found = [
        [read_evidence(next(said), len(premises)) if premises else [] for _ in stated]
        for stated, premises in ways
    ]
    rows = [
        _row(stated, premises, evidence)
        for (stated, premises), evidence in zip(ways, found, strict=True)
    ]
    count = len(expected)
    sums = np.hstack([np.array(rows[:count]), np.array(rows[count:])])
    details = Details(
        {
            side: [
                {"phrase": phrase, "evidence": numbers}
                for (phrase, _), numbers in zip(ways[i + shift][0], found[i + shift], strict=True)
            ]
            for side, shift in (("prediction", 0), ("reference", count))
        }
        for i in range(count)
    )
    facts = {
        "scorer": "llava_rad (RadFact's aggregation, prompts of llava_rad)",
        **judge.facts(),
        "range": "0-1",
    }
    return MetricResult(NAME, _combine(sums), sums, _combine, facts, (), details)


def read_evidence(answer: str, premises: int) -> list[int]:
    """The numbers of statements in an answer, from 1; others are left out."""
    said = conclusion(answer)
    if re.match(r"\W*(?:no|none)\b", said, re.IGNORECASE):
        return []
    numbers = (int(number) for number in re.findall(r"(?<!\d)\d{1,4}(?!\d)", said))
    return sorted({number for number in numbers if 1 <= number <= premises})


def placed(boxes: Sequence[Box], evidence: Sequence[Box]) -> bool:
    """Whether more than half of what some boxes cover lies in those of the evidence."""
    return bool(boxes) and common_area(boxes, evidence) / area_of(boxes) > _INSIDE


def _row(
    stated: Sequence[Phrase], premises: Sequence[Phrase], evidence: Sequence[Sequence[int]]
) -> list[float]:
    """Of one report three shares, each with whether it has one."""
    entailed = [bool(numbers) for numbers in evidence]
    boxed = [bool(boxes) for _, boxes in stated]
    right = [
        is_true and placed(boxes, [b for n in numbers for b in premises[n - 1][1]])
        for (_, boxes), is_true, numbers in zip(stated, entailed, evidence, strict=True)
    ]
    true_boxed = sum(a and b for a, b in zip(entailed, boxed, strict=True))
    shares = ((sum(entailed), len(stated)), (sum(right), true_boxed), (sum(right), sum(boxed)))
    return [value for hits, of in shares for value in ((hits / of, 1.0) if of else (0.0, 0.0))]


def _combine(totals: Floats) -> dict[str, Floats]:
    values: dict[str, Floats] = {}
    for place, kind in enumerate(("logical", "grounding", "spatial")):
        precision = ratio(totals[..., 2 * place], totals[..., 2 * place + 1])
        recall = ratio(totals[..., 6 + 2 * place], totals[..., 7 + 2 * place])
        values |= {
            f"{kind}_precision": precision,
            f"{kind}_recall": recall,
            f"{kind}_f1": harmonic(precision, recall),
        }
    return values


def _numbered(phrases: Sequence[Phrase]) -> str:
    return "\n".join(f"{number}. {phrase}" for number, (phrase, _) in enumerate(phrases, 1))
