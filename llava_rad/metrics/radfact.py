"""RadFact's logical scores (Bannur et al., arXiv:2406.04449): are the statements true, in [0, 1].

An LLM splits each report into phrases that state one finding each, then says for each phrase of the
one report whether the other report entails it. Precision is the share of the prediction's phrases
that the reference entails, recall the share of the reference's phrases that the prediction entails.
The aggregation is RadFact's: a report without phrases has no share and is left out of that mean;
F1 is that of the two means. An answer that is neither yes nor no counts as not entailed; how many
there are is told, and how many lists of phrases are not in JSON, whose lines are taken instead.

The judge is any local LLM or any endpoint of OpenAI's form. The prompts are this project's, without
RadFact's examples: the numbers compare systems under one judge, not with those of the paper, whose
judge was Llama-3-70B with RadFact's prompts. The output names the judge and the prompts' hash.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from llava_rad.errors import ConfigError, WeightsError, shown
from llava_rad.metrics.judge_llm import (
    EndpointJudge,
    Judge,
    LocalJudge,
    RememberingJudge,
    check_address,
    conclusion,
    hash_of,
)
from llava_rad.metrics.result import (
    Details,
    Floats,
    MetricResult,
    check_pairs,
    harmonic,
    is_empty,
    ratio,
)
from llava_rad.wording import counted, verb

SPLIT = """Rewrite a chest X-ray report as a list of short statements.
Each statement names one finding, device or structure, and says that it is there, that it is not
there, or how it has changed. Keep what the report says of side, place, size and certainty. Leave
out advice, causes that are only suspected, and remarks on how the picture was taken.
Answer with a JSON list of strings and nothing else. Answer [] if nothing is stated.

Report:
{text}
"""
ENTAIL = """Here are all statements of one chest X-ray report:
{premises}

Another statement about the same X-ray:
{phrase}

Does the report say that this is true? What it does not mention is not said.
Answer with one word: yes or no.
"""


def check_judge(llm: str | None, endpoint: str | None, model: str | None) -> None:
    """Refuse settings that name no judge, or two.

    Raises:
        ConfigError: an endpoint without its model or the reverse, two judges, or an address that is
            none.
    """
    if (endpoint is None) != (not model):
        raise ConfigError(
            "an endpoint needs the name of a model"
            if endpoint is not None
            else f"the model {shown(model)} needs an endpoint",
            where="radfact",
            remedy="Give both --radfact-endpoint and --radfact-model",
            kind="no_model",
        )
    if endpoint is not None and llm is not None:
        raise ConfigError(
            "an LLM and an endpoint are named as the judge",
            where="radfact",
            remedy="Give --radfact-llm, or --radfact-endpoint with --radfact-model",
            kind="two_judges",
        )
    if endpoint is not None:
        check_address(endpoint)


def radfact_judge(
    llm: str | None, endpoint: str | None, model: str | None, *, device: str | None = None
) -> Judge:
    """The judge that settings name: an endpoint, or an LLM of this machine.

    Raises:
        WeightsError: none is named, or the LLM is not there (kind ``missing``).
        ConfigError: see :func:`check_judge`.
    """
    check_judge(llm, endpoint, model)
    if endpoint is not None and model:
        return EndpointJudge(endpoint, model)
    if llm is None:
        raise WeightsError(
            "no judge is named",
            where="radfact",
            remedy="Fetch one, such as: hf download meta-llama/Meta-Llama-3-70B-Instruct, and name "
            "it with --radfact-llm; or name an API with --radfact-endpoint and --radfact-model",
            kind="missing",
        )
    return LocalJudge(llm, metric="radfact", longest=4096, longest_answer=1024, device=device)


def radfact_prompt_hash() -> str:
    """SHA-256 of the wording around the reports."""
    return hash_of(SPLIT, ENTAIL)


def radfact(
    predictions: Sequence[str], references: Sequence[str], *, judge: RememberingJudge
) -> MetricResult:
    """Logical precision, recall and F1.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        judge: splits reports and says what follows from them.

    Returns:
        Values ``logical_precision``, ``logical_recall`` and ``logical_f1``; of a pair whose text
        has no phrase they are 0. The details of a pair are its phrases and what was said of them.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    texts = [text for text in dict.fromkeys([*predictions, *references]) if not is_empty(text)]
    answers = judge.answer([SPLIT.replace("{text}", text.strip(), 1) for text in texts])
    phrases = {text: read_phrases(answer) for text, answer in zip(texts, answers, strict=True)}
    mine = [phrases.get(text, []) for text in predictions]
    theirs = [phrases.get(text, []) for text in references]
    ways = [*zip(mine, theirs, strict=True), *zip(theirs, mine, strict=True)]
    asked = [
        ENTAIL.replace("{premises}", _listed(premises), 1).replace("{phrase}", phrase, 1)
        for stated, premises in ways
        if premises
        for phrase in stated
    ]
    verdicts = [read_entailment(answer) for answer in judge.answer(asked)]
    said = iter(verdicts)
    entailed = [
        [bool(next(said)) if premises else False for _ in stated] for stated, premises in ways
    ]
    unread = {
        "phrases": sum(_json_list(answer) is None for answer in answers),
        "entailment": verdicts.count(None),
    }
    count = len(predictions)
    return aggregate(
        entailed[:count],
        entailed[count:],
        facts={
            "scorer": "llava_rad (RadFact's aggregation, prompts of llava_rad)",
            **judge.facts(),
            "phrases": {"prediction": sum(map(len, mine)), "reference": sum(map(len, theirs))},
            "answers_in_another_form": unread,
        },
        notes=_notes(unread, len(texts), len(verdicts)),
        details=[
            {
                "prediction": [
                    {"phrase": phrase, "entailed": true}
                    for phrase, true in zip(mine[i], entailed[i], strict=True)
                ],
                "reference": [
                    {"phrase": phrase, "entailed": true}
                    for phrase, true in zip(theirs[i], entailed[count + i], strict=True)
                ],
            }
            for i in range(count)
        ],
    )


def aggregate(
    predicted: Sequence[Sequence[bool]],
    expected: Sequence[Sequence[bool]],
    *,
    facts: dict[str, object] | None = None,
    notes: tuple[str, ...] = (),
    details: Sequence[dict[str, object]] = (),
) -> MetricResult:
    """RadFact's scores from what is entailed.

    Args:
        predicted: of each pair, whether the reference entails each phrase of the prediction.
        expected: of each pair, whether the prediction entails each phrase of the reference.
        facts: what the answers depend on.
        notes: for the reader of the numbers.
        details: more about each pair.
    """
    columns = []
    for phrases in (predicted, expected):
        counts = np.array([len(of_pair) for of_pair in phrases], dtype=np.float64)
        shares = ratio([sum(of_pair) for of_pair in phrases], counts)
        columns += [shares, (counts > 0).astype(np.float64)]
    sums = np.column_stack(columns)

    def combine(totals: Floats) -> dict[str, Floats]:
        precision = ratio(totals[..., 0], totals[..., 1])
        recall = ratio(totals[..., 2], totals[..., 3])
        return {
            "logical_precision": precision,
            "logical_recall": recall,
            "logical_f1": harmonic(precision, recall),
        }

    facts = {**(facts or {}), "range": "0-1"}
    return MetricResult("radfact", combine(sums), sums, combine, facts, notes, Details(details))


def read_phrases(answer: str) -> list[str]:
    """The phrases of an answer: a JSON list, else its lines without bullets and numbers.

    Of a list that was cut off, what is whole counts; lines that introduce others are left out.
    """
    values = _json_list(answer)
    if values is not None:
        try:
            return _phrases_in(values)
        except RecursionError:  # nested deeper than anybody writes
            return []
    said = conclusion(answer)
    begun = re.search(r'\[\s*"', said)
    if begun:
        strings = re.findall(r'"(?:[^"\\]|\\.)*"', said[begun.start() :])
        return _phrases_in([_decoded(string) for string in strings])
    lines = (_BULLET.sub("", line).strip().strip("\"',") for line in said.splitlines())
    return [line for line in lines if line.strip("[]`") and not line.rstrip("*").endswith(":")]


def read_entailment(answer: str) -> bool | None:
    """Whether an answer says yes or no; None where it is neither."""
    found = _VERDICT.match(conclusion(answer))
    return None if found is None else found[1].lower() in _ENTAILED


_BULLET = re.compile(r"^\s*(?:[-*•‣]|\(?\d+[.)]|\[\d+\])\s+")
_ENTAILED = ("yes", "true", "entailment", "entailed")
_VERDICT = re.compile(
    r"\W*(?:json\W+)?(?:(?:the\W+)?(?:final\W+)?(?:answer|verdict|status)\W+(?:is\W+)?)?"
    rf"({'|'.join(_ENTAILED)}|no|not|not_entailment|false|contradiction|neutral)\b",
    re.IGNORECASE,
)
_LISTS_LOOKED_AT = 20  # of an answer


def _json_list(answer: str) -> list[Any] | None:
    """The first JSON list of an answer that holds texts, or nothing at all."""
    said = conclusion(answer)
    for found in itertools.islice(re.finditer(r"\[", said), _LISTS_LOOKED_AT):
        try:
            values, _ = json.JSONDecoder().raw_decode(said, found.start())
        except (ValueError, RecursionError):
            continue
        if not values or any(isinstance(value, str | dict | list) for value in values):
            return list(values)
    return None


def _phrases_in(value: Any) -> list[str]:
    """The texts of a list, of lists in it, and the longest one of each object in it."""
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if isinstance(value, dict):
        return max(
            map(_phrases_in, value.values()), key=lambda some: sum(map(len, some)), default=[]
        )
    return [text for one in value for text in _phrases_in(one)] if isinstance(value, list) else []


def _decoded(string: str) -> str:
    try:
        return str(json.loads(string, strict=False))
    except ValueError:  # a backslash before another letter
        return string[1:-1]


def _notes(unread: dict[str, int], lists: int, verdicts: int) -> tuple[str, ...]:
    return tuple(
        f"{count} of the judge's {counted(of, 'answer')} about {what} {verb(count)} not in the "
        f"form that was asked for; {then}"
        for count, of, what, then in (
            (unread["phrases"], lists, "phrases", "lines were taken instead"),
            (unread["entailment"], verdicts, "entailment", "they count as no"),
        )
        if count
    )


def _listed(phrases: Sequence[str]) -> str:
    return "\n".join(f"- {phrase}" for phrase in phrases)
