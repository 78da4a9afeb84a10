"""Which patches the LLM attended to while it wrote each sentence: attention, not proof."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llava_rad.errors import ModelError
from llava_rad.model import ReportModel, ReportRequest
from llava_rad.model.lora import without_lora
from llava_rad.model.processor import IGNORE, IMAGE_TOKEN
from llava_rad.sentences import sentence_spans


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """What a sentence attended to in one image.

    Attributes:
        grid: [rows, columns] of the encoder's patches, float32; 1 is an even share of what the
            sentence gives to all image tokens of the study, 2 twice as much.
        box: where the grid lies on the radiograph: top, left, bottom and right in its pixels. It
            ends beyond a picture that was padded, and within one that was cropped.
    """

    grid: NDArray[np.float32]
    box: tuple[float, float, float, float]

    def on_radiograph(self, height: int, width: int) -> NDArray[np.float32]:
        """The grid over each pixel of its radiograph of this size, interpolated between patches.

        Returns:
            float32 [height, width]; 0 where the encoder did not look.
        """
        top, left, bottom, right = self.box
        rows, columns = self.grid.shape
        down = (np.arange(height) + 0.5 - top) / (bottom - top) * rows
        across = (np.arange(width) + 0.5 - left) / (right - left) * columns
        seen = np.outer((down >= 0) & (down < rows), (across >= 0) & (across < columns))
        places = np.arange(columns) + 0.5
        wide = np.stack([np.interp(across, places, row) for row in self.grid])
        places = np.arange(rows) + 0.5
        full = np.stack([np.interp(down, places, column) for column in wide.T], axis=1)
        return (full * seen).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SentenceAttention:
    """A sentence of a report and what it attended to.

    Attributes:
        start: its first character in the text.
        end: the one after its last.
        share: of its attention that went to the images, 0 to 1; the rest went to words.
        images: one for each image of the request.
    """

    start: int
    end: int
    share: float
    images: tuple[ImageAttention, ...]


@torch.inference_mode()
def report_attention(
    model: ReportModel, request: ReportRequest, text: str
) -> list[SentenceAttention]:
    """Read the LLM's attention to the images, sentence by sentence, from one pass over the text.

    For each word the attention is that of the position that wrote it. It is averaged over all
    layers and heads, and over the words of the sentence. Attention says where information may have
    been taken from; it is no proof that the sentence rests on it.

    Args:
        model: that wrote the text.
        request: that it was written for, with its pictures.
        text: the findings.

    Returns:
        One for each sentence, in order; none for a text without words.

    Raises:
        ModelError: the LLM gives no attention.

    Example:
        >>> from llava_rad.model import ReportRequest, RequestImage
        >>> from llava_rad.reports.attention import report_attention
        >>> picture = llava_rad.load_radiograph("chest.dcm")
        >>> request = ReportRequest((RequestImage("current_frontal", picture),))
        >>> text = "The lungs are clear. The heart is normal."
        >>> [text[found.start : found.end] for found in report_attention(model, request, text)]
        ['The lungs are clear.', 'The heart is normal.']
    """
    processor = model.processor
    if not processor.without_control(text):
        return []
    sample = processor.encode(request, text)
    ids, labels = torch.tensor([sample.input_ids]), torch.tensor(sample.labels)
    pixels = processor.pixel_values([request])
    embeds = model.embed(ids.to(model.device), model.encode_images(pixels).to(model.device))
    places = processor.places(request, text)
    first = int((labels != IGNORE).nonzero()[0])
    writers = torch.arange(first - 1, first - 1 + len(places))  # each wrote the token after it
    columns = (ids[0] == IMAGE_TOKEN).nonzero().squeeze(1)
    weights = _attention(without_lora(model.llm), embeds, writers, columns).cpu()

    sentences = []
    for (start, end), words in _words_of_sentences(processor.without_control, text, places):
        given = weights[words].mean(0) if words else weights.new_zeros(len(columns))
        share = float(given.sum())
        even = given * (len(columns) / share) if share > 0 else given
        images = []
        for image, tokens in zip(
            request.images, even.split(processor.tokens_per_image), strict=True
        ):
            assert image.radiograph is not None  # else there were no pixel values
            grid = model.config.adapter.on_patches(tokens, model.grid).numpy()
            images.append(ImageAttention(grid, _box(model, *image.radiograph.pixels.shape)))
        sentences.append(SentenceAttention(start, end, share, tuple(images)))
    return sentences


def _words_of_sentences(
    flatten: Any, text: str, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Each sentence's place in the text, and its tokens; the LLM was given the text in one line."""
    whole, after = flatten(text), 0
    for start, end in sentence_spans(text):
        words = flatten(text[start:end])
        found = whole.find(words, after)
        if not words or found < 0:
            yield (start, end), []
            continue
        after = found + len(words)
        yield (
            (start, end),
            [n for n, (first, last) in enumerate(places) if first < after and last > found],
        )


def _attention(llm: Any, embeds: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What positions give to others: [rows, columns], the mean over layers and heads.

    Of each layer only these entries are kept, so memory holds one layer's attention at a time.
    """
    length = embeds.shape[1]
    total = torch.zeros(len(rows), len(columns), device=embeds.device)
    layers = 0
    last: Any = None

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal layers, last
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        # Some families wrap the module that makes the weights in one that hands them on.
        if isinstance(weights, Tensor) and weights.shape[2:] == (length, length):
            if last is not None and last() is weights:
                return
            last, layers = weakref.ref(weights), layers + 1
            picked = weights[0][:, rows.to(weights.device)][..., columns.to(weights.device)]
            total.add_(picked.float().mean(0).to(total.device))

    with _eager(llm), contextlib.ExitStack() as hooks:
        for module in llm.modules():
            hooks.callback(module.register_forward_hook(keep).remove)
        llm(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)
    if not layers:
        raise ModelError(
            f"{type(llm).__name__} gives no attention",
            remedy="Attention can be read from LLMs of transformers with eager attention",
            kind="no_attention",
        )
    return total / layers


@contextlib.contextmanager
def _eager(llm: Any) -> Iterator[None]:
    """Attention written out: the fused ways do not keep their weights."""
    before = llm.config._attn_implementation
    llm.set_attn_implementation("eager")
    try:
        yield
    finally:
        llm.set_attn_implementation(before)


def _box(model: ReportModel, height: int, width: int) -> tuple[float, float, float, float]:
    """Where the patches lie on a radiograph of this size."""
    top, left, bottom, right = model.processor.preprocessing.seen(height, width)
    # Some encoders leave out what fills no patch, at the right and lower edge.
    size, patch = model.encoder.image_size, model.encoder.patch_size
    rows, columns = model.grid
    return (
        top,
        left,
        top + (bottom - top) * rows * patch / size,
        left + (right - left) * columns * patch / size,
    )
