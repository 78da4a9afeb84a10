"""GREEN (Ostmeier et al., Findings of EMNLP 2024): an LLM that counts errors, in [0, 1].

A 7B LLM, fine-tuned for it, reads both reports and lists matched findings, and errors of six kinds
(false finding, missing finding, wrong place, wrong severity, comparison that is not in the
reference, comparison left out), clinically significant ones apart. The score of a pair is matched
findings over matched findings and significant errors, 0 where nothing matches; mean of reports.

The counts are read off the answer as ``green_score`` 0.0.12 reads them. The model runs in float16
on a GPU and in float32 on a CPU, decodes greedily, and reads the first 300 words of each report,
all as published.
"""

import re
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

from llava_rad.metrics.judge_llm import LocalJudge, RememberingJudge, hash_of
from llava_rad.metrics.result import MetricResult, check_pairs, mean_result

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
# The model's input format, which it was fine-tuned on and gives no numbers without: the text of
# make_prompt in green_score 0.0.12 (github.com/Stanford-AIMI/GREEN, MIT).
PROMPT = files("llava_rad.metrics").joinpath("green_prompt.txt").read_text(encoding="utf-8")
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


def green_prompt_hash() -> str:
    """SHA-256 of the wording around the reports."""
    return hash_of(PROMPT, _CHAT)


def green(
    predictions: Sequence[str], references: Sequence[str], *, judge: RememberingJudge
) -> MetricResult:
    """GREEN of each pair and its mean.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        judge: GREEN's LLM, which remembers its answers.

    Returns:
        Values ``green``, ``matched_findings``, ``significant_errors`` and
        ``significant/KIND``: means of the pairs' values; the details of a pair are the LLM's words.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    answers = judge.answer([make_prompt(reference, text) for text, reference in pairs])
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
    details = [{"answer": answer} for answer in answers]
    return mean_result("green", values, facts=facts, details=details)


def make_prompt(reference: str, prediction: str) -> str:
    """The text that the LLM reads of a pair."""
    true, written = (" ".join(text.split()[:_WORDS]) for text in (reference, prediction))
    before, rest = PROMPT.split("{reference}")
    between, after = rest.split("{prediction}")
    return f"{before}{true}{between}{written}{after}"


def matched_findings(answer: str) -> int:
    """How many findings an answer says that match; 0 where it does not say."""
    found = re.match(r"\d+\b(?=\.)", _section(answer, "Matched Findings"))
    return int(found[0]) if found else 0


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
            counts[marks.index(line[1])] = int(number[0])
    return counts


def _section(answer: str, title: str) -> str:
    """What stands under a title, up to an empty line; nothing where it says that there is none."""
    found = re.search(rf"\[{title}\]:\s*(.*?)(?:\n\s*\n|\Z)", answer, re.DOTALL)
    return found[1] if found and not found[1].startswith("No") else ""
