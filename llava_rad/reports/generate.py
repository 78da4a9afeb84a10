"""Write reports: batched decoding of requests into text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llava_rad.config import Count, NonNegative, Positive, Range, Seed, check_ranges
from llava_rad.data.deidentification import has_marks
from llava_rad.errors import ModelError
from llava_rad.grounded_text import GroundedText, read_grounded
from llava_rad.model import ReportModel, ReportRequest
from llava_rad.model.lora import without_lora
from llava_rad.model.tokenizer import decode
from llava_rad.reports.boxes import box_warnings, grounding
from llava_rad.reports.draws import StudyDraws, draw_seed
from llava_rad.reports.image_facts import ImageFacts, facts_of_images
from llava_rad.reports.report import Report, Sentence
from llava_rad.sentences import sentence_spans

# Prompts for a static cache are padded to a multiple of this many tokens.
_LENGTHS = 64


@dataclass(frozen=True)
class GenerationSettings:
    """How text is decoded.

    Attributes:
        max_new_tokens: longest report, in tokens.
        num_beams: 1 is greedy (or sampling), more is beam search.
        temperature: 0 is deterministic; above, tokens are drawn.
        top_p: with sampling, the smallest set of tokens with this probability.
        repetition_penalty: 1 is none.
        seed: of the draws; each study has its own, made from this and its id.
        static_cache: keep keys and values in memory of one size, for which the decoding step is
            compiled on a GPU. It changes how long a batch takes, and texts no more than batches do.

    Raises:
        ConfigError: a value is out of its range.

    Example:
        >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
        >>> model.report("chest.dcm", settings=short).tokens
        4
    """

    max_new_tokens: Count = 256
    num_beams: Count = 1
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0
    repetition_penalty: Positive = 1.0
    seed: Seed = 0
    static_cache: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """What the texts depend on, as plain values for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "static_cache"}


@torch.inference_mode()
def generate_reports(
    model: ReportModel,
    requests: Sequence[ReportRequest],
    settings: GenerationSettings | None = None,
    *,
    patches: Tensor | None = None,
    pixel_values: Tensor | None = None,
    keys: Sequence[str] | None = None,
    follow: Sequence[Callable[[Sequence[int]], bool] | None] | None = None,
) -> list[Report]:
    """Write one report per request, all in one batch.

    Prompts are padded on the left, so that each row goes on from its own last token; each row
    stops by itself, and its text does not depend on the other rows.

    Args:
        model: loaded with :func:`llava_rad.load`.
        requests: what is known of each study.
        settings: default: greedy, 256 tokens.
        patches: patch tokens of all images in order, if they were encoded before.
        pixel_values: of all images in order, if they were preprocessed before.
        keys: of the requests, such as study ids: with a temperature the draws of each come from
            the seed and its key alone. None gives all of them the same.
        follow: for each request None, or what is told all its tokens after each one and says
            whether to go on; a text that is not wanted any more ends there. With beams, of which
            the best one is known at the end, nobody is told.

    Raises:
        ModelError: a request cannot be put to this model, or its logits are not finite.

    Example:
        >>> from llava_rad.model import ReportRequest, RequestImage
        >>> picture = llava_rad.load_radiograph("chest.dcm")
        >>> request = ReportRequest((RequestImage("current_frontal", picture),))
        >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
        >>> [report] = llava_rad.generate_reports(model, [request], short)
        >>> report.tokens
        4
    """
    if not requests:
        return []
    settings = settings or GenerationSettings()
    processor = model.processor
    keys = [""] * len(requests) if keys is None else list(keys)
    # A step is compiled anew for each length of a static cache, so there are few.
    multiple = _LENGTHS if settings.static_cache else 1
    batch = processor.pad([processor.encode(r) for r in requests], side="left", multiple=multiple)
    told = [ImageFacts()] * len(requests)
    if patches is None:
        pixels = processor.pixel_values(requests) if pixel_values is None else pixel_values
        seen = model.see(pixels)
        told, patches = facts_of_images(model, requests, *seen), seen.patches
    embeds = model.embed(batch["input_ids"].to(model.device), patches.to(model.device))

    llm = without_lora(model.llm)
    ends = sorted(model.end_ids)
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "num_beams": settings.num_beams,
        "do_sample": False,
        "repetition_penalty": settings.repetition_penalty,
        "eos_token_id": ends,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "bos_token_id": processor.tokenizer.bos_token_id,
        "use_cache": True,
    }
    if settings.static_cache:  # transformers compiles its step where that is of use
        options["cache_implementation"] = "static"
    stops = list(processor.template.stop_texts)
    texts = {"stop_strings": stops} if stops else {}

    prompt: dict[str, Any] = {
        "inputs_embeds": embeds,
        "attention_mask": batch["attention_mask"].to(model.device),
    }
    if stops:
        prompt["tokenizer"] = processor.tokenizer
    chosen = _ChosenTokens()
    if settings.temperature > 0 and settings.num_beams > 1:
        rows = _sampled_beams(llm, prompt, options | texts, settings, keys)
    else:
        steps: list[LogitsProcessor] = [_RequireFinite()]
        if settings.num_beams == 1:  # else rows change places
            steps.append(chosen)
        if settings.temperature > 0:
            steps.append(StudyDraws(keys, settings.seed, settings.temperature, settings.top_p))
        rows = llm.generate(
            **prompt,
            generation_config=GenerationConfig(**options, **texts),
            logits_processor=LogitsProcessorList(steps),
            stopping_criteria=_followed(follow or [], settings),
        )
    sure = chosen.of(rows)
    return [
        _report(model, request, row.tolist(), ends, settings, facts, probabilities)
        for request, row, facts, probabilities in zip(requests, rows, told, sure, strict=True)
    ]


def _followed(
    follow: Sequence[Callable[[Sequence[int]], bool] | None], settings: GenerationSettings
) -> StoppingCriteriaList:
    wanted = any(one is not None for one in follow) and settings.num_beams == 1
    return StoppingCriteriaList([_Followed(follow)] if wanted else [])


class _Followed(StoppingCriteria):
    """Tells what is written, and ends the rows that nobody wants any more."""

    def __init__(self, follow: Sequence[Callable[[Sequence[int]], bool] | None]) -> None:
        self._follow = follow

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows end: bool [rows], of ``input_ids`` [rows, tokens without the prompt]."""
        rows = zip(self._follow, input_ids.tolist(), strict=True)
        ended = [one is not None and not one(ids) for one, ids in rows]
        return torch.tensor(ended, device=input_ids.device)


class _RequireFinite(LogitsProcessor):
    """Stops before a token is chosen from numbers that say nothing."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` [rows, vocabulary] as they are.

        Raises:
            ModelError: one of them is not finite.
        """
        if not torch.isfinite(scores).all():
            raise ModelError(
                "the model's logits are not finite: its text would mean nothing",
                remedy="Load it in float32 or bfloat16, and check the base LLM's files",
                kind="not_finite",
            )
        return scores


class _ChosenTokens(LogitsProcessor):
    """Keeps how probable each token was that was chosen; the scores stay as they are."""

    def __init__(self) -> None:
        self._scores: Tensor | None = None
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` [rows, vocabulary] of the next token; ``input_ids`` end with the last one."""
        if self._scores is not None:
            self._keep(input_ids[:, -1:])
        self._scores = scores.float().log_softmax(dim=-1)
        return scores

    def of(self, rows: Sequence[Tensor]) -> list[list[float]]:
        """Log-probabilities of the tokens of each row; none where nothing was kept."""
        if self._scores is None:
            return [[] for _ in rows]
        self._keep(torch.stack([row[-1:] for row in rows]))
        return torch.cat(self._chosen, dim=1).tolist()

    def _keep(self, tokens: Tensor) -> None:
        assert self._scores is not None
        self._chosen.append(self._scores.gather(1, tokens.to(self._scores.device)))


def _sampled_beams(
    llm: Any,
    prompt: dict[str, Any],
    options: dict[str, Any],
    settings: GenerationSettings,
    keys: Sequence[str],
) -> list[Tensor]:
    """Beams that are drawn share the library's generator, so each study goes alone with its own."""
    drawn = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    tensors = {name: value for name, value in prompt.items() if isinstance(value, Tensor)}
    device = tensors["inputs_embeds"].device
    rows: list[Tensor] = []
    for row, key in enumerate(keys):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(draw_seed(settings.seed, key))
            # Without the padding, which other rows made necessary.
            first = int(tensors["attention_mask"][row].argmax())
            own = {name: value[row : row + 1, first:] for name, value in tensors.items()}
            rows += llm.generate(
                **prompt | own,
                generation_config=GenerationConfig(**options | drawn | {"do_sample": True}),
                logits_processor=LogitsProcessorList([_RequireFinite()]),
            )
    return rows


def _report(
    model: ReportModel,
    request: ReportRequest,
    ids: list[int],
    ends: list[int],
    settings: GenerationSettings,
    facts: ImageFacts,
    probabilities: list[float],
) -> Report:
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    used = len(ids) if end is None else end
    raw = decode(model.processor.tokenizer, ids[:used])
    stopped = end is not None or any(s in raw for s in model.processor.template.stop_texts)
    written = read_grounded(model.processor.decode(ids, ends))
    text = written.text
    return Report(
        findings=text,
        model=model.config.name,
        tokens=used,
        truncated=not stopped and used >= settings.max_new_tokens,
        repetitive=is_repetitive(text),
        warnings=(*facts.warnings, *text_warnings(text), *box_warnings(written)),
        observations=facts.observations,
        sentences=_sentences(model, written, raw, ids[:used], probabilities),
        grounding=grounding(model.processor, request, written),
    )


def _sentences(
    model: ReportModel, written: GroundedText, raw: str, ids: list[int], probabilities: list[float]
) -> tuple[Sentence, ...]:
    """The sentences of a text, each with the mean log-probability of its tokens.

    A token belongs to the sentence in which it ends.
    """
    if not probabilities:
        return ()
    text, places = written.text, written.places
    before = len(raw) - len(raw.lstrip())  # what was stripped
    tokenizer = model.processor.tokenizer
    ends = [len(decode(tokenizer, ids[: n + 1])) - before for n in range(len(ids))]
    found = []
    for start, stop in sentence_spans(text):
        first, last = places[start], places[stop - 1] + 1
        own = [p for end, p in zip(ends, probabilities, strict=False) if first < end <= last]
        if own:
            found.append(Sentence(text[start:stop], round(sum(own) / len(own), 4)))
    return tuple(found)


# What is written in angle or square brackets or bars by tokenizers and never by radiologists.
_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:s|pad|unk|bos|eos|image|img)>|\[/?INST\]|\ufffd")


def text_warnings(text: str) -> tuple[str, ...]:
    """What does not belong into a report: marks of de-identification, special tokens."""
    found = []
    if has_marks(text):
        found.append(
            "deidentification_mark: the text holds a mark such as '___' where training texts had "
            "words removed"
        )
    token = _TOKEN.search(text)
    if token:
        found.append(f"foreign_token: the text holds {token[0]!r}, which is no word")
    return tuple(found)


def is_repetitive(text: str, *, times: int = 4) -> bool:
    """Whether some phrase of up to 20 words stands ``times`` times in a row."""
    words = re.findall(r"\w+", text.lower())
    for size in range(1, 21):
        run = 0
        for i in range(size, len(words)):
            run = run + 1 if words[i] == words[i - size] else 0
            if run >= size * (times - 1):
                return True
    return False
