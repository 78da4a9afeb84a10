"""From a request (and its report, in training) to the tensors the model takes.

This is the one place where an image's placeholder becomes a run of image tokens.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.encoders import Preprocessing
from llava_rad.errors import ModelError, WeightsError
from llava_rad.model.prompt import FIELDS, PromptTemplate, ReportRequest
from llava_rad.model.tokenizer import (
    adds_bos,
    control_tokens,
    decode,
    read_tokenizer,
    tokenise,
    with_pad_token,
)
from llava_rad.readers import read_json

#: Takes the place of each image token in ``input_ids``; LLaVA's number for it.
IMAGE_TOKEN = -200
#: Marks positions without a target in ``labels``, as torch's cross-entropy expects.
IGNORE = -100

FILE = "processor.json"


def columns_with_targets(labels: Tensor) -> Tensor:
    """The positions, [columns], at which some row of ``labels`` has to predict its next token."""
    return (labels[:, 1:] != IGNORE).any(0).nonzero().squeeze(-1)


def image_places(input_ids: Tensor) -> Tensor:
    """Where ``input_ids.flatten()`` is ``IMAGE_TOKEN``: int64 [image tokens]."""
    return (input_ids == IMAGE_TOKEN).flatten().nonzero().squeeze(1)


def pads_on_the_right(attention_mask: Tensor) -> Tensor:
    """Whether no row of a mask [batch, length] has padding before a token: bool, []."""
    return (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()


@dataclass(frozen=True)
class Sample:
    """One tokenised request.

    Attributes:
        input_ids: prompt, image tokens as ``IMAGE_TOKEN``, and the report if there was one.
        labels: the report's tokens and its end where they stand, ``IGNORE`` elsewhere.
        truncated: report tokens that the length limit cut off.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: int = 0


class ReportProcessor:
    """Tokenizer, prompt and preprocessing of one report model, saved and loaded together.

    Args:
        tokenizer: of the LLM; its vocabulary is not changed.
        template: wording of the prompt.
        preprocessing: of the encoder.
        tokens_per_image: embeddings that encoder and adapter make of one image.

    Raises:
        ModelError: no token of the LLM could end a report or pad a batch.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: PromptTemplate,
        preprocessing: Preprocessing,
        tokens_per_image: int,
    ) -> None:
        self.tokenizer = with_pad_token(tokenizer)
        self.template = template
        self.preprocessing = preprocessing
        self.tokens_per_image = tokens_per_image
        self.start_ids = [self.tokenizer.bos_token_id] if adds_bos(self.tokenizer) else []
        self.end_id = self._end_id()
        control = control_tokens(self.tokenizer)
        self._ban = template.ban(control)
        # What a tokenizer does not know is its unknown token, and no harm where it ends nothing.
        self._control_ids = set(control.values())
        if self.tokenizer.unk_token_id not in {*self.end_ids, self.tokenizer.bos_token_id}:
            self._control_ids.discard(self.tokenizer.unk_token_id)

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end a report: the chat format's and the tokenizer's own."""
        return {self.end_id, self.tokenizer.eos_token_id} - {None}

    def require_fits(self, rows: int, *, where: object = None) -> None:
        """Check that the LLM knows the tokens that every prompt and batch needs.

        Args:
            rows: of the LLM's table of embeddings.
            where: named in errors.

        Raises:
            ModelError: a token lies beyond the table.
        """
        tokenizer = self.tokenizer
        if tokenizer.pad_token_id >= rows:
            # Added for training elsewhere, without a row of its own; what pads is never looked at.
            spare = tokenizer.unk_token or tokenizer.eos_token
            if spare is not None:
                tokenizer.pad_token = spare
        needed = {*self.start_ids, *self.end_ids, tokenizer.pad_token_id}
        needed.update(self._tokens(self.template.before), self._tokens(self.template.after))
        beyond = sorted(token for token in needed if not 0 <= token < rows)
        if beyond:
            raise ModelError(
                f"the tokenizer's token {tokenizer.convert_ids_to_tokens(beyond[0])!r} is number "
                f"{beyond[0]}, the LLM knows {rows}",
                where=where,
                remedy="Use tokenizer and LLM of one and the same model",
                kind="wrong_tokenizer",
            )

    def _end_id(self) -> int:
        if self.template.stop is None:
            if self.tokenizer.eos_token_id is None:
                raise ModelError(
                    "the tokenizer has no end token, and the template names no stop",
                    where=self.tokenizer.name_or_path or None,
                    remedy="Name its eos_token in tokenizer_config.json, or a stop",
                    kind="unknown_stop",
                )
            return self.tokenizer.eos_token_id
        found = self.tokenizer.convert_tokens_to_ids(self.template.stop)
        # Some LLMs have one token for what is unknown and for the end.
        if found is None or self.tokenizer.convert_ids_to_tokens(found) != self.template.stop:
            raise ModelError(
                f"the template's stop '{self.template.stop}' is not a token of the LLM",
                remedy="Use one of its special tokens, or none for its EOS",
                kind="unknown_stop",
            )
        return found

    def encode(
        self,
        request: ReportRequest,
        report: str | None = None,
        *,
        max_length: int | None = None,
    ) -> Sample:
        """Tokenise a request, with its report in training.

        Args:
            request: images and context.
            report: the text to learn; the prompt ends before it where it is None.
            max_length: longest ``input_ids``; what is over is cut from the report's end, never
                from the prompt or the images.

        Raises:
            ModelError: no token is left to learn, or prompt and report share a token.
        """
        parts = self.template.parts(self.harmless(request))
        ids = list(self.start_ids)
        for part in parts[:-1]:
            ids += self._tokens(part) + [IMAGE_TOKEN] * self.tokens_per_image
        last = self._tokens(parts[-1])
        if report is None:
            return Sample(ids + last, [IGNORE] * (len(ids) + len(last)))

        text = self.without_control(report)
        if not text:
            raise ModelError(
                "the report is empty: there is no token to learn",
                remedy="Leave studies without findings out",
                kind="no_target",
            )
        tokens, spans = self._joined(parts[-1], text)
        start = next((i for i, (_, end) in enumerate(spans) if end > 0), len(tokens))
        if tokens[:start] != last:
            raise ModelError(
                "the prompt's last token and the report's first one are merged by the tokenizer",
                remedy="Let the template's separator keep them apart, for instance with a newline",
                kind="merged_boundary",
            )
        target = tokens[start:]
        if not self.template.report_end:
            target = [*target, self.end_id]
        ids += last
        kept = len(target) if max_length is None else min(len(target), max_length - len(ids))
        if kept < 1:
            raise ModelError(
                f"the prompt alone takes {len(ids)} of {max_length} tokens",
                remedy="Raise max_length, pool the patch tokens, or give less context",
                kind="no_target",
            )
        labels = [IGNORE] * len(ids) + target[:kept]
        return Sample(ids + target[:kept], labels, truncated=len(target) - kept)

    def places(self, request: ReportRequest, report: str) -> list[tuple[int, int]]:
        """Which characters of a report each of its tokens stands for.

        Args:
            request: that it answers.
            report: as for :meth:`encode`.

        Returns:
            First character and end in ``without_control(report)``, one pair for each label of
            :meth:`encode` that is a token of the text; what ends the report is left out.
        """
        text = self.without_control(report)
        _, spans = self._joined(self.template.parts(self.harmless(request))[-1], text)
        skipped = len(self.template.separator)
        found = ((start - skipped, end - skipped) for start, end in spans if end > 0)
        return [(max(start, 0), max(end, 0)) for start, end in found if start < len(text)]

    def _joined(self, prompt: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of prompt and report, and their characters counted from the prompt's end.

        The tokenizer sees both joined, as at training time of the LLM; its own offsets say where
        the report begins.
        """
        joined = prompt + self.template.separator + text + self.template.report_end
        tokens, spans = tokenise(self.tokenizer, joined)
        return tokens, [(start - len(prompt), end - len(prompt)) for start, end in spans]

    def harmless(self, request: ReportRequest) -> ReportRequest:
        """The request with nothing in its context that would open or close a turn."""
        given = {name: getattr(request, name) for name in FIELDS}
        harmless: Any = {k: self.without_control(v) for k, v in given.items() if v}
        return replace(request, **harmless)

    def without_control(self, text: str) -> str:
        """A text in one line, without what steers the LLM.

        The strings are taken out first. Then the tokens themselves count: a tokenizer may know a
        mark by another spelling, such as full-width letters.
        """
        words, before = self._ban.take_out(text), ""
        while words != before:
            before = words
            tokens, places = tokenise(self.tokenizer, words)
            if self._control_ids.isdisjoint(tokens):
                break
            spans = [
                (start, end)
                for token, (start, end) in zip(tokens, places, strict=True)
                if token in self._control_ids and end > start
            ]
            for start, end in reversed(spans):
                words = f"{words[:start]} {words[end:]}"
            words = self._ban.take_out(words)
        return words

    def _tokens(self, text: str) -> list[int]:
        return tokenise(self.tokenizer, text)[0]

    def pixel_values(self, requests: Sequence[ReportRequest]) -> Tensor:
        """Encoder inputs of all images, request by request: [images, 3, height, width].

        Raises:
            ModelError: a request comes without its pictures.
        """
        images = [image for request in requests for image in request.images]
        inputs = []
        for number, image in enumerate(images, 1):
            if image.radiograph is None:
                raise ModelError(
                    f"image {number} of the batch has no picture",
                    remedy="Give radiographs, or patch tokens made from them",
                    kind="no_picture",
                )
            inputs.append(self.preprocessing(image.radiograph))
        return torch.stack(inputs)

    def pad(self, samples: Sequence[Sample], side: str, multiple: int = 1) -> dict[str, Tensor]:
        """Stack samples of different length.

        Args:
            samples: from :meth:`encode`.
            side: ``"right"`` to train, ``"left"`` to generate.
            multiple: the length is made one of it.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels``, each [batch, length].
        """
        longest = max(len(s.input_ids) for s in samples)
        length = -(-longest // multiple) * multiple
        shape = (len(samples), length)
        ids = torch.full(shape, self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        for row, sample in enumerate(samples):
            n = len(sample.input_ids)
            place = slice(length - n, length) if side == "left" else slice(0, n)
            ids[row, place] = torch.tensor(sample.input_ids)
            labels[row, place] = torch.tensor(sample.labels)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def decode(self, ids: Sequence[int], ends: Collection[int] = ()) -> str:
        """Text of generated ids, cut at the end token and at the template's stop texts.

        Args:
            ids: generated tokens.
            ends: tokens that end a report, beside :attr:`end_ids`.
        """
        stops = self.end_ids.union(ends)
        end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        text = decode(self.tokenizer, list(ids[:end]))
        for stop in self.template.stop_texts:
            text = text.split(stop)[0]
        return text.strip()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``processor.json`` and ``tokenizer/`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        values = {
            "template": self.template.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "tokens_per_image": self.tokens_per_image,
        }
        (folder / FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ReportProcessor":
        """Inverse of :meth:`save_pretrained`.

        Raises:
            WeightsError: a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            values = read_json(folder / FILE, error=WeightsError, expect=dict)
            template = PromptTemplate.from_dict(values["template"])
            preprocessing = Preprocessing.from_dict(values["preprocessing"])
            tokens = values["tokens_per_image"]
            if type(tokens) is not int or tokens < 1:
                raise ValueError(f"tokens_per_image is {tokens!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"the processor cannot be loaded ({error!r})",
                where=folder / FILE,
                remedy="Copy the whole model folder again",
                kind="damaged_processor",
            ) from error
        return cls(read_tokenizer(folder / "tokenizer"), template, preprocessing, tokens)
