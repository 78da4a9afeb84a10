"""Studies as samples: what of each study is shown, what is learnt, how long it is.

They are tokenised once, by all processes and their workers, and kept as arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from llava_rad.data import Study
from llava_rad.errors import DataError, ModelError
from llava_rad.grounded_text import read_grounded
from llava_rad.model import (
    IGNORE,
    IMAGE_TOKEN,
    PromptTemplate,
    ReportProcessor,
    ReportRequest,
    Sample,
)
from llava_rad.processes import process_state
from llava_rad.report_training.config import DropoutConfig
from llava_rad.report_training.grounded_targets import grounded
from llava_rad.report_training.studies import Split
from llava_rad.reports.request import StudyRequest, study_request
from llava_rad.runs.loading import read_ahead
from llava_rad.runs.together import gathered
from llava_rad.wording import counted

# Independent streams of randomness under one seed.
_DROPOUT_STREAM, _AUGMENT_STREAM = 1, 4
_CHUNK = 256  # studies that are tokenised together


def restricted_template(
    tokenizer: Any, images: Sequence[str], context: Sequence[str], changes: dict[str, Any]
) -> PromptTemplate:
    """The prompt of a model that is trained with some images and texts only.

    A line that training never shows is left out, so that the trained model refuses it too.
    """
    template = PromptTemplate.for_tokenizer(tokenizer, **changes)
    lines = {r: line for r, line in template.image_lines.items() if r in images}
    fields = {f: line for f, line in template.field_lines.items() if f in context}
    template = replace(template, image_lines=lines, field_lines=fields)
    if "indication" not in context:
        template = replace(template, instruction_with_indication=None)
    return template


@dataclass(frozen=True)
class ReportSample:
    """One study, tokenised.

    Attributes:
        study_id: its id.
        request: what is shown of it.
        tokens: prompt and report.
        paths: files of its images in the prompt's order.
        rng: of this draw's augmentation; None leaves the images as they are.
    """

    study_id: str
    request: ReportRequest
    tokens: Sample
    paths: tuple[str, ...]
    rng: np.random.Generator | None = None


class ReportSamples:
    """The samples of a split.

    Args:
        split: studies with their texts.
        processor: of the model.
        max_length: longest sample in tokens.
        dropout: of the optional parts; None shows all that a study has.
        seed: of the dropout and the augmentation; one number or several.
        augment: turn and shift the images of each draw.
        workers: processes that tokenise; 0 does so in this one.

    Attributes:
        weights: how often each sample is drawn in an epoch.
        lengths: tokens of each sample with all its parts, [samples].
        left_out: reason to study ids that cannot be samples.
        truncated: ids of studies whose report is cut at ``max_length``.

    Raises:
        DataError: no study can be a sample.
    """

    def __init__(
        self,
        split: Split,
        processor: ReportProcessor,
        max_length: int,
        dropout: DropoutConfig | None = None,
        seed: Sequence[int] = (0,),
        augment: bool = False,
        workers: int = 0,
    ) -> None:
        self.processor = processor
        self.max_length = max_length
        self.seed = tuple(seed)
        self.augment = augment
        self.left_out: dict[str, list[str]] = {}
        self.truncated: list[str] = []
        self.weights: list[float] = []
        self._droppable = {k: p for k, p in vars(dropout or DropoutConfig()).items() if p > 0}
        self._requests: list[StudyRequest] = []
        self._texts: list[str] = []
        self._ids: list[str] = []
        split = grounded(split, processor) if split.boxes else split
        self._parts: list[tuple[str, ...]] = []
        kept: list[_Tokens] = []
        tokenise = _Tokenise(split, processor, max_length, tuple(self._droppable))
        for place, found in enumerate(_in_all_processes(tokenise, len(split), workers)):
            study, text = split.studies[place], split.texts[place]
            if isinstance(found, str):
                self.left_out.setdefault(found, []).append(study.study_id)
                continue
            if found[0].truncated:
                self.truncated.append(study.study_id)
            kept += found
            self.weights.append(split.weights[place])
            self._requests.append(study_request(study, processor.template))
            self._texts.append(text)
            self._ids.append(study.study_id)
            self._parts.append(tuple(tokens.without for tokens in found[1:]))
        if not kept:
            raise DataError(
                f"none of {counted(len(split), 'study', 'studies')} can be learnt from "
                f"({self._reasons()})",
                remedy="Check views, findings and data.max_length against the data",
                kind="no_sample",
            )
        # Few large arrays: data loader workers share them, and nothing counts references there.
        self._tokens = np.concatenate([tokens.ids for tokens in kept])
        self._ends = np.cumsum([len(tokens.ids) for tokens in kept])
        self._prompts = np.array([tokens.prompt for tokens in kept])
        self._lengths = np.array([tokens.length for tokens in kept])
        variants = [1 + len(parts) for parts in self._parts]
        self._first = np.cumsum([0, *variants[:-1]])
        self.lengths = self._lengths[self._first]

    def summary(self) -> str:
        """One line for the log."""
        text = (
            f"{len(self)} of {self.lengths.mean():.0f} tokens on average, at most "
            f"{self.lengths.max()}; {counted(len(self.truncated), 'report')} cut at "
            f"{self.max_length}"
        )
        return text + (f"; left out, {self._reasons()}" if self.left_out else "")

    def _reasons(self) -> str:
        return ", ".join(
            f"{reason}: {len(ids)} ({', '.join(ids[:3])}{' ...' if ids[3:] else ''})"
            for reason, ids in self.left_out.items()
        )

    def __len__(self) -> int:
        return len(self._ids)

    def images(self) -> dict[str, str]:
        """Every image file that some sample shows, with the first study that shows it."""
        found: dict[str, str] = {}
        for study_id, request in zip(self._ids, self._requests, strict=True):
            for image in request.images:
                found.setdefault(image.path, study_id)
        return found

    def study_id(self, index: int) -> str:
        """Id of a sample's study."""
        return self._ids[index]

    def text(self, index: int) -> str:
        """The report that is learnt, without the marks of its boxes."""
        return read_grounded(self._texts[index]).text

    def request(self, index: int) -> StudyRequest:
        """What is shown of a study when nothing is left out."""
        return self._requests[index]

    def sample(self, index: int, draw: int | None = None) -> ReportSample:
        """A sample as one draw of the run shows it.

        Args:
            index: which study.
            draw: number of the draw within the run, which decides what is left out; None leaves
                out nothing and does not augment.
        """
        whole = self._requests[index]
        left_out = [part for part in self._left_out_in(draw) if part in self._parts[index]]
        request = _without(whole.request, left_out)
        if len(left_out) > 1:
            tokens = self.processor.encode(request, self._texts[index], max_length=self.max_length)
        else:
            tokens = self._stored(self._variant(index, *left_out))
        roles = {image.role for image in request.images}
        paths = tuple(
            image.path
            for image, shown in zip(whole.images, whole.request.images, strict=True)
            if shown.role in roles
        )
        rng = None
        if self.augment and draw is not None:
            rng = np.random.default_rng([*self.seed, _AUGMENT_STREAM, draw])
        return ReportSample(self._ids[index], request, tokens, paths, rng)

    def length(self, index: int, draw: int) -> int:
        """Tokens of a sample as one draw shows it, as near as adding up tells."""
        return self._as_shown(self._lengths, index, draw)

    def prompt_length(self, index: int, draw: int) -> int:
        """As :meth:`length`, without the report."""
        return self._as_shown(self._prompts, index, draw)

    def _as_shown(self, counts: np.ndarray, index: int, draw: int) -> int:
        whole = counts[self._first[index]]
        parts = self._parts[index]
        left_out = [part for part in self._left_out_in(draw) if part in parts] if parts else []
        saved = (whole - counts[self._variant(index, part)] for part in left_out)
        return int(whole - sum(saved))

    def _variant(self, index: int, without: str | None = None) -> int:
        """The place of a sample's tokens, whole or without one part, among those kept."""
        return int(self._first[index]) + (1 + self._parts[index].index(without) if without else 0)

    def _stored(self, variant: int) -> Sample:
        """Tokens as they were made, each image's mark once more a run."""
        start = self._ends[variant - 1] if variant else 0
        ids = self._tokens[start : self._ends[variant]]
        runs = np.where(ids == IMAGE_TOKEN, self.processor.tokens_per_image, 1)
        whole = np.repeat(ids, runs).tolist()
        prompt = int(self._prompts[variant])
        return Sample(whole, [IGNORE] * prompt + whole[prompt:])

    def _left_out_in(self, draw: int | None) -> list[str]:
        """Parts that a draw leaves out."""
        if draw is None or not self._droppable:
            return []
        rng = np.random.default_rng([*self.seed, _DROPOUT_STREAM, draw])
        return [part for part, p in self._droppable.items() if rng.random() < p]


@dataclass(frozen=True)
class _Tokens:
    """A study's tokens, whole or without one part.

    Attributes:
        without: the part that is left out; empty for none.
        ids: int32, an image's run of tokens as one.
        prompt: tokens that are not learnt.
        length: tokens, those of images counted.
        truncated: report tokens that the length limit cut off.
    """

    without: str
    ids: np.ndarray
    prompt: int
    length: int
    truncated: int


class _Tokenise(Dataset[list[list[_Tokens] | str]]):
    """Item ``i`` is the ``i``-th chunk of studies: tokens of each, or why it cannot be a sample.

    First come those of the whole study, then those without each part that may be left out. What
    lacks several parts is drawn seldom, and tokenised then.
    """

    def __init__(
        self, split: Split, processor: ReportProcessor, max_length: int, parts: tuple[str, ...]
    ) -> None:
        self.split = split
        self.processor = processor
        self.max_length = max_length
        self.parts = parts

    def __getitem__(self, number: int) -> list[list[_Tokens] | str]:
        chunk = slice(number * _CHUNK, (number + 1) * _CHUNK)
        studies = zip(self.split.studies[chunk], self.split.texts[chunk], strict=True)
        return [self._of(study, text) for study, text in studies]

    def _of(self, study: Study, text: str) -> list[_Tokens] | str:
        try:
            request = study_request(study, self.processor.template).request
            without = {part: _without(request, [part]) for part in self.parts}
            shown = {"": request} | {p: rest for p, rest in without.items() if rest != request}
            return [self._encode(part, rest, text) for part, rest in shown.items()]
        except ModelError as error:
            return error.kind or error.what

    def _encode(self, without: str, request: ReportRequest, text: str) -> _Tokens:
        sample = self.processor.encode(request, text, max_length=self.max_length)
        ids = np.array(sample.input_ids, dtype=np.int32)
        images = np.flatnonzero(ids == IMAGE_TOKEN)
        repeated = images[np.arange(len(images)) % self.processor.tokens_per_image != 0]
        prompt = sample.labels.count(IGNORE)
        return _Tokens(without, np.delete(ids, repeated), prompt, len(ids), sample.truncated)


def _in_all_processes(
    tokenise: _Tokenise, studies: int, workers: int
) -> Iterator[list[_Tokens] | str]:
    """What each study was made into, in their order; the processes of the run share the work."""
    state, chunks = process_state(), range(-(-studies // _CHUNK))
    mine = chunks[state.process_index :: state.num_processes]
    made = read_ahead(tokenise, mine, workers if len(mine) > 1 else 0)
    parts = gathered(state, list(zip(mine, made, strict=True)))
    together = dict(chunk for part in parts for chunk in part)
    return (found for number in chunks for found in together[number])


def _without(request: ReportRequest, parts: Sequence[str]) -> ReportRequest:
    """The request without some of its texts and images."""
    if not parts:
        return request
    texts = {part: None for part in parts if hasattr(request, part)}
    images = tuple(image for image in request.images if image.role not in parts)
    return replace(request, images=images, **texts)
