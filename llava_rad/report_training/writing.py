"""Reports that a model in training writes, with the tokens they were drawn as."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from llava_rad.model import ReportModel, ReportRequest
from llava_rad.model.tokenizer import decode
from llava_rad.reports.generate import GenerationSettings, generate_reports


@dataclass(frozen=True)
class Written:
    """A report and its tokens.

    Attributes:
        text: the report.
        tokens: as they were chosen, with the one that ends the report.
        stopped: it ends by itself, not for its length.
    """

    text: str
    tokens: list[int]
    stopped: bool


def write(
    model: ReportModel,
    requests: Sequence[ReportRequest],
    patches: Tensor,
    settings: GenerationSettings,
    keys: Sequence[str] | None = None,
) -> list[Written]:
    """Write a report for each request, all in one batch.

    Args:
        model: whole, in evaluation mode.
        requests: what is known of each study.
        patches: patch tokens of all images in order.
        settings: of the decoding, without beams.
        keys: what the draws of each request come from, beside the seed.
    """
    rows = [_Tokens(model) for _ in requests]
    reports = generate_reports(
        model, requests, settings, patches=patches, keys=keys, follow=[row.take for row in rows]
    )
    return [
        Written(report.findings, row.tokens, row.ended)
        for report, row in zip(reports, rows, strict=True)
    ]


class _Tokens:
    """Keeps the tokens of one report up to the one that ends it."""

    def __init__(self, model: ReportModel) -> None:
        self.tokens: list[int] = []
        self.ended = False
        self._ends = model.end_ids
        self._tokenizer = model.processor.tokenizer
        self._stops = model.processor.template.stop_texts

    def take(self, tokens: Sequence[int]) -> bool:
        """Take all tokens so far; whether the report goes on."""
        if not self.ended:
            self.tokens = list(tokens)
            self.ended = tokens[-1] in self._ends
            if self._stops and not self.ended:
                text = decode(self._tokenizer, self.tokens)
                self.ended = any(stop in text for stop in self._stops)
        return not self.ended
