"""Studies as tokenised samples: what of each study is shown, what is learnt, how long it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llava_rad.errors import DataError, ModelError
from llava_rad.model import IGNORE, PromptTemplate, ReportProcessor, ReportRequest, Sample
from llava_rad.report_training.config import DropoutConfig
from llava_rad.report_training.studies import Split
from llava_rad.reports.request import StudyRequest, study_request
from llava_rad.wording import counted

# Independent streams of randomness under one seed.
_DROPOUT_STREAM, _AUGMENT_STREAM = 1, 4


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
        tokens: prompt and report.
        paths: files of its images in the prompt's order.
        rng: of this draw's augmentation; None leaves the images as they are.
    """

    study_id: str
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
        self._costs: list[dict[str, int]] = []
        lengths: list[int] = []
        for study, text, weight in zip(split.studies, split.texts, split.weights, strict=True):
            try:
                request = study_request(study, processor.template)
                tokens = processor.encode(request.request, text, max_length=max_length)
            except ModelError as error:
                self.left_out.setdefault(error.kind or error.what, []).append(study.study_id)
                continue
            if tokens.truncated:
                self.truncated.append(study.study_id)
            lengths.append(len(tokens.input_ids))
            self.weights.append(weight)
            self._requests.append(request)
            self._texts.append(text)
            self._ids.append(study.study_id)
            self._costs.append(self._part_costs(request.request, tokens))
        self.lengths = np.array(lengths, dtype=np.int64)
        if not lengths:
            raise DataError(
                f"none of {counted(len(split), 'study', 'studies')} can be learnt from "
                f"({self._reasons()})",
                remedy="Check views, findings and data.max_length against the data",
                kind="no_sample",
            )

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
        """The report that is learnt."""
        return self._texts[index]

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
        request = _without(whole.request, self._left_out_in(draw))
        tokens = self.processor.encode(request, self._texts[index], max_length=self.max_length)
        roles = {image.role for image in request.images}
        paths = tuple(
            image.path
            for image, shown in zip(whole.images, whole.request.images, strict=True)
            if shown.role in roles
        )
        rng = None
        if self.augment and draw is not None:
            rng = np.random.default_rng([*self.seed, _AUGMENT_STREAM, draw])
        return ReportSample(self._ids[index], tokens, paths, rng)

    def length(self, index: int, draw: int) -> int:
        """Tokens of a sample as one draw shows it, as near as adding up tells."""
        costs = self._costs[index]
        left_out = self._left_out_in(draw) if costs else ()
        return int(self.lengths[index]) - sum(costs.get(part, 0) for part in left_out)

    def _left_out_in(self, draw: int | None) -> list[str]:
        """Parts that a draw leaves out."""
        if draw is None or not self._droppable:
            return []
        rng = np.random.default_rng([*self.seed, _DROPOUT_STREAM, draw])
        return [part for part, p in self._droppable.items() if rng.random() < p]

    def _part_costs(self, request: ReportRequest, whole: Sample) -> dict[str, int]:
        """Tokens that each part which may be left out takes."""
        costs = {}
        report = whole.truncated + sum(label != IGNORE for label in whole.labels)
        for part in self._droppable:
            rest = _without(request, [part])
            if rest != request:
                length = len(self.processor.encode(rest).input_ids) + report
                costs[part] = len(whole.input_ids) - min(length, self.max_length)
        return costs


def _without(request: ReportRequest, parts: Sequence[str]) -> ReportRequest:
    """The request without some of its texts and images."""
    if not parts:
        return request
    texts = {part: None for part in parts if hasattr(request, part)}
    images = tuple(image for image in request.images if image.role not in parts)
    return replace(request, images=images, **texts)
