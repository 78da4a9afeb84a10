"""GREEN (Ostmeier et al., Findings of EMNLP 2024): an LLM that counts errors, in [0, 1].

A 7B LLM, fine-tuned for it, reads both reports and lists matched findings, and errors of six kinds
(false finding, missing finding, wrong place, wrong severity, comparison that is not in the
reference, comparison left out), clinically significant ones apart. The score of a pair is matched
findings over matched findings and significant errors, 0 where nothing matches; mean of reports.

The LLM was fine-tuned on one wording of its task, which is not part of this project: the text file
``green_prompt.txt`` in the model's folder, or another that is named, with ``{reference}`` and
``{prediction}`` where the reports go. ``make_prompt`` of the package green_score prints it:
``python -c "from green_score.utils import make_prompt; print(make_prompt('{reference}',
'{prediction}'))" > green_prompt.txt``.

The counts are read off the answer as ``green_score`` 0.0.12 reads them. The model runs in float16
on a GPU and in float32 on a CPU, decodes greedily, and reads the first 300 words of each report,
all as published.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava_rad.errors import WeightsError
from llava_rad.metrics.judge_llm import LocalJudge, RememberingJudge, hash_of
from llava_rad.metrics.result import Details, MetricResult, check_pairs, mean_result
from llava_rad.wording import counted, verb

DEFAULT_GREEN = "StanfordAIMI/GREEN-radllama2-7b"
KINDS = (
    "false_finding",
    "missing_finding",
    "wrong_location",
    "wrong_severity",
    "false_comparison",
    "missing_comparison",
)
_WORDS = 300  # of a report
_DIGITS = 6  # of a count; a model that repeats itself writes more
PROMPT_FILE = "green_prompt.txt"
_PLACES = ("{reference}", "{prediction}")
_CHAT = "<|user|>\n{prompt}{end}\n<|assistant|>\n{end}\n<|assistant|>\n"


def green_judge(model: str = DEFAULT_GREEN, *, device: str | None = None) -> LocalJudge:
    """GREEN's LLM, from a folder or the local hub cache.

    Raises:
        WeightsError: it is not there (kind ``missing``), is damaged, or needs its own code.
    """
    return LocalJudge(
        model,
        metric="green",
        wrap=lambda tokenizer, prompt: _CHAT.format(prompt=prompt, end=tokenizer.eos_token),
        longest=2048,
        end_token=True,
        device=device,
    )


def read_prompt(model: str = DEFAULT_GREEN, file: Path | None = None) -> str:
    """The wording that GREEN's LLM was fine-tuned on, with places for both reports.

    Args:
        model: as for :func:`green_judge`.
        file: that holds it; None looks in the model's folder.

    Raises:
        WeightsError: it is not there (kind ``missing``), or has no places for the reports.
    """
    place = file or Path(model).expanduser() / PROMPT_FILE
    try:
        prompt = place.read_text(encoding="utf-8")
        if not all(prompt.count(mark) == 1 for mark in _PLACES):
            raise ValueError(f"it names {' and '.join(_PLACES)} not once each")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"GREEN's prompt cannot be used ({getattr(error, 'strerror', None) or error})",
            where=place,
            remedy="Write it with make_prompt of the package green_score (docs/metrics.md), and "
            "give --green-prompt FILE",
            kind="missing",
        ) from error
    return prompt


def prompt_hash(prompt: str) -> str:
    """SHA-256 of the wording around the reports."""
    return hash_of(prompt, _CHAT)


def green(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    judge: RememberingJudge,
    prompt: str,
) -> MetricResult:
    """GREEN of each pair and its mean.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        judge: GREEN's LLM, which remembers its answers.
        prompt: from :func:`read_prompt`.

    Returns:
        Values ``green``, ``matched_findings``, ``significant_errors`` and
        ``significant/KIND``: means of the pairs' values; the details of a pair are the LLM's words.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    answers = judge.answer([make_prompt(prompt, reference, text) for text, reference in pairs])
    matched = np.array([matched_findings(answer) for answer in answers], dtype=np.float64)
    errors = np.array([significant_errors(answer) for answer in answers], dtype=np.float64)
    total = errors.sum(axis=1)
    values = {
        "green": np.where(matched > 0, matched / np.maximum(matched + total, 1), 0.0),
        "matched_findings": matched,
        "significant_errors": total,
        **{f"significant/{kind}": errors[:, i] for i, kind in enumerate(KINDS)},
    }
    unread = sum("[Matched Findings]" not in answer for answer in answers)
    facts = {
        "scorer": "llava_rad (green_score 0.0.12's definition)",
        **judge.facts(),
        "answers_without_matched_findings": unread,
        "range": "0-1",
    }
    details = Details({"answer": answer} for answer in answers)
    notes = []
    if unread:
        notes.append(
            f"{unread} of {counted(len(answers), 'answer')} {verb(unread, 'does', 'do')} not say "
            "what matches, and score 0"
        )
    return mean_result("green", values, facts=facts, notes=notes, details=details)


def make_prompt(prompt: str, reference: str, prediction: str) -> str:
    """The text that the LLM reads of a pair."""
    true, written = (" ".join(text.split()[:_WORDS]) for text in (reference, prediction))
    places = {mark: text for mark, text in zip(_PLACES, (true, written), strict=True)}
    return re.sub("|".join(map(re.escape, _PLACES)), lambda found: places[found[0]], prompt)


def matched_findings(answer: str) -> int:
    """How many findings an answer says that match; 0 where it does not say."""
    return _count(re.match(r"\d+\b(?=\.)", _section(answer, "Matched Findings")))


def significant_errors(answer: str) -> list[int]:
    """How many significant errors of each of :data:`KINDS` an answer lists."""
    text = _section(answer, "Clinically Significant Errors")
    lines = sorted(re.findall(r"\([a-f]\) .*", text))
    marks = "abcdef"
    if not lines:
        lines, marks = sorted(re.findall(r"\([1-6]\) .*", text)), "123456"
    counts = [0] * len(KINDS)
    for line in lines:
        number = re.search(r"(?<=: )\b\d+\b(?=\.)", line)
        if number:
            counts[marks.index(line[1])] = _count(number)
    return counts


def _count(digits: re.Match[str] | None) -> int:
    """The number that was found; 0 for none, and for one that counts nothing in a report."""
    return int(digits[0]) if digits and len(digits[0]) <= _DIGITS else 0


def _section(answer: str, title: str) -> str:
    """What stands under a title, up to an empty line; nothing where it says that there is none."""
    found = re.search(rf"\[{title}\]:\s*(.*?)(?:\n\s*\n|\Z)", answer, re.DOTALL)
    return found[1] if found and not found[1].startswith("No") else ""
