"""CheXbert labels, their F1, and the similarity of CheXbert embeddings.

CheXbert (Smit et al., EMNLP 2020) is a BERT with 14 classification heads on its first token: four
classes (blank, positive, negative, uncertain) for 13 observations, two (blank, positive) for
``No Finding``. This labeler runs on today's transformers, reads the public ``chexbert.pth``, and
gives the same labels as ``f1chexbert`` 0.0.2: it labels many reports at a time, without padding, of
the last layer only what the heads read, and equal reports once.

A report of more than 512 word pieces loses its end, as published; how many did is in the facts.
With ``windows`` it is labelled in overlapping windows instead: positive beats uncertain beats
negative beats blank, and ``No Finding`` must hold in every window.

Labels are those of float32. ``precision="bfloat16"`` is several times faster where the processor
multiplies in it and differs in a label now and then; the facts say which was used.

An empty report goes through the network like any other, as published.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import MetricError, WeightsError
from llava_rad.file_keys import sha256
from llava_rad.metrics.label_f1 import label_f1
from llava_rad.metrics.result import (
    MetricResult,
    check_pairs,
    is_empty,
    join_results,
    mean_result,
    ratio,
    some_empty,
)
from llava_rad.metrics.weights import resolve_file
from llava_rad.observations import OBSERVATIONS, Mention
from llava_rad.weight_files import read_state_dict
from llava_rad.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import BertModel, BertTokenizer

    from llava_rad.metrics.first_token_bert import FirstTokenBert

REPOSITORY, FILENAME = "StanfordAIMI/RRG_scorers", "chexbert.pth"
VOCABULARY = "google-bert/bert-base-uncased"
PRECISIONS = ("float32", "bfloat16")
POSITIONS = 512
WINDOW_STRIDE = 255
BERT_HEAD_DIM = 64
CLASSES = [2 if name == "No Finding" else 4 for name in OBSERVATIONS]  # of each head
_BATCH_TOKENS = 1024
_READ_AT_ONCE = 4096  # texts, whose word pieces are in memory together
_AT_ONCE = 64  # texts whose embeddings are copied at once


@dataclass(frozen=True)
class CheXbertLabels:
    """What CheXbert says of a list of reports.

    Attributes:
        mentions: the heads' classes [texts, 14], as
            :class:`~llava_rad.observations.Mention`.
        embeddings: the encoder's vector of the first token [texts, dim]; the mean over windows.
        too_long: mask [texts] of the reports of more than 512 word pieces.
    """

    mentions: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    too_long: NDArray[np.bool_]


class CheXbert:
    """The labeler. Build it with :meth:`load`."""

    def __init__(
        self,
        encoder: "FirstTokenBert",
        heads: "torch.nn.Linear",
        tokenizer: "BertTokenizer",
        checkpoint_hash: str,
        precision: str = "float32",
    ) -> None:
        self.encoder = encoder
        self.heads = heads
        self.tokenizer = tokenizer
        self.checkpoint_hash = checkpoint_hash
        self.precision = precision
        self._known = {False: _Known(), True: _Known()}

    @classmethod
    def load(
        cls,
        weights: str | Path | None = None,
        *,
        vocabulary: str | Path | None = None,
        attention_heads: int | None = None,
        precision: str = "float32",
        device: "str | torch.device | None" = None,
    ) -> "CheXbert":
        """Load a checkpoint in the layout of the public ``chexbert.pth``.

        Args:
            weights: the file, its folder or a hub repository; the local hub cache by default.
            vocabulary: BERT's uncased ``vocab.txt`` or its folder; by default one beside the
                weights, else the one in the local hub cache.
            attention_heads: heads of each layer, for a checkpoint whose heads do not have BERT's
                64 dimensions: the file does not say.
            precision: ``"float32"`` or ``"bfloat16"``.
            device: where the network runs; CUDA where there is one by default.

        Raises:
            WeightsError: a file is not there (kind ``missing``) or not such a checkpoint.
            MetricError: there is no such precision.
        """
        if precision not in PRECISIONS:
            raise MetricError(
                f"there is no precision '{precision}'",
                where="chexbert",
                remedy=f"Choose one of {', '.join(PRECISIONS)}",
                kind="unknown_precision",
            )

        path = resolve_file(weights, repo=REPOSITORY, filename=FILENAME, metric="chexbert")
        beside = path.with_name("vocab.txt")
        vocabulary_path = resolve_file(
            beside if vocabulary is None and beside.is_file() else vocabulary,
            repo=VOCABULARY,
            filename="vocab.txt",
            metric="chexbert",
        )
        # Imported after the look-ups, so that a missing file is told at once.
        import torch
        from transformers import BertTokenizer

        from llava_rad.metrics.first_token_bert import FirstTokenBert

        bert, heads = _read_checkpoint(path, attention_heads)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            FirstTokenBert(bert).to(device).eval(),
            heads.to(device).eval(),
            BertTokenizer(vocab=str(vocabulary_path)),
            sha256(path),
            precision,
        )

    def label(
        self, texts: Sequence[str], *, windows: bool = False, batch_tokens: int = _BATCH_TOKENS
    ) -> CheXbertLabels:
        """Label reports.

        Args:
            texts: the reports; those labelled before, by this call or another, cost nothing.
            windows: label reports of more than 512 word pieces in overlapping windows.
            batch_tokens: word pieces that go through the network at once.
        """
        rows = self._rows(texts, windows, batch_tokens)
        return self._known[windows].take(rows)

    def similarities(
        self, texts: Sequence[str], others: Sequence[str], *, windows: bool = False
    ) -> NDArray[np.float64]:
        """Cosines [texts] of the embeddings of texts and as many others, 0 for a vector of 0."""
        mine, theirs = (self._rows(some, windows) for some in (texts, others))
        known = self._known[windows]
        found = np.zeros(len(texts))
        for start in range(0, len(texts), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            a, b = (known.take(rows[part]).embeddings for rows in (mine, theirs))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            found[part] = ratio((a * b).sum(axis=1), norms)
        return found

    def mentions(
        self, texts: Sequence[str], *, windows: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Classes [texts, 14] and which were too long, as :meth:`label`, without embeddings."""
        rows = self._rows(texts, windows)
        known = self._known[windows]
        parts = [
            known.take(rows[start : start + _AT_ONCE]) for start in range(0, len(rows), _AT_ONCE)
        ]
        return (
            np.concatenate([part.mentions for part in parts]),
            np.concatenate([part.too_long for part in parts]),
        )

    def forget(self, more_than: int) -> None:
        """Forget the texts where more than so many are known."""
        for windows, known in self._known.items():
            if len(known.rows) > more_than:
                self._known[windows] = _Known()

    def _rows(
        self, texts: Sequence[str], windows: bool, batch_tokens: int = _BATCH_TOKENS
    ) -> NDArray[np.int64]:
        """Where the labels of each text are kept; texts that are not known are labelled first."""
        known = self._known[windows]
        new = [text for text in dict.fromkeys(texts) if text not in known.rows]
        for start in range(0, len(new), _READ_AT_ONCE):
            chunk = new[start : start + _READ_AT_ONCE]
            known.add(chunk, self._label_new(chunk, windows, batch_tokens))
        return np.array([known.rows[text] for text in texts], dtype=np.int64)

    def _label_new(self, texts: list[str], windows: bool, batch_tokens: int) -> "CheXbertLabels":
        pieces = self.tokenizer(
            [re.sub(r"\s+", " ", text).strip() for text in texts],
            add_special_tokens=False,
            verbose=False,
        )["input_ids"]
        room = POSITIONS - 2
        parts: list[list[int]] = []
        spans = []
        for tokens in pieces:
            last = max(len(tokens) - room, 0) if windows else 0
            starts = [*range(0, last, WINDOW_STRIDE), last]
            spans.append(slice(len(parts), len(parts) + len(starts)))
            parts += [tokens[start : start + room] for start in starts]
        labels = self._run(parts, batch_tokens)
        too_long = np.array([len(tokens) > room for tokens in pieces])
        if not windows:
            return replace(labels, too_long=too_long)
        return CheXbertLabels(
            np.stack([_strongest(labels.mentions[span]) for span in spans]),
            np.stack([labels.embeddings[span].mean(axis=0) for span in spans]),
            too_long,
        )

    def _run(self, parts: list[list[int]], batch_tokens: int) -> CheXbertLabels:
        """What the network says of lists of word pieces."""
        import torch

        device = self.heads.weight.device
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        labels = CheXbertLabels(
            np.zeros((len(parts), len(OBSERVATIONS)), dtype=np.int64),
            np.zeros((len(parts), self.heads.in_features), dtype=np.float32),
            np.zeros(len(parts), dtype=np.bool_),
        )
        order = sorted(range(len(parts)), key=lambda i: len(parts[i]))
        for batch in _batches(order, [len(part) + 2 for part in parts], batch_tokens):
            half = torch.autocast(
                device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
            )
            with torch.inference_mode(), half:
                vectors = self.encoder([[first, *parts[i], last] for i in batch])
                outputs = self.heads(vectors).split(CLASSES, dim=1)
                best = torch.stack([output.argmax(dim=1) for output in outputs], dim=1)
            labels.mentions[batch] = best.cpu().numpy()
            labels.embeddings[batch] = vectors.float().cpu().numpy()
        return labels


class _Known:
    """What was said of texts, in few arrays; each holds more than the next."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.blocks: list[CheXbertLabels] = []

    def add(self, texts: list[str], labels: CheXbertLabels) -> None:
        """Keep the labels of texts that were not known."""
        self.rows.update(
            zip(texts, range(len(self.rows), len(self.rows) + len(texts)), strict=True)
        )
        self.blocks.append(labels)
        while len(self.blocks) > 1 and len(self.blocks[-2].mentions) <= len(
            self.blocks[-1].mentions
        ):
            smaller, larger = self.blocks[-2:]
            joined = (
                np.concatenate([getattr(smaller, name), getattr(larger, name)])
                for name in ("mentions", "embeddings", "too_long")
            )
            self.blocks[-2:] = [CheXbertLabels(*joined)]

    def take(self, rows: NDArray[np.int64]) -> CheXbertLabels:
        """The labels of some texts."""
        ends = np.cumsum([len(block.mentions) for block in self.blocks])
        of_block = np.searchsorted(ends, rows, side="right")
        dim = self.blocks[0].embeddings.shape[1]
        found = CheXbertLabels(
            np.zeros((len(rows), len(OBSERVATIONS)), dtype=np.int64),
            np.zeros((len(rows), dim), dtype=np.float32),
            np.zeros(len(rows), dtype=np.bool_),
        )
        for place, block in enumerate(self.blocks):
            here = of_block == place
            inside = rows[here] - (ends[place] - len(block.mentions))
            found.mentions[here] = block.mentions[inside]
            found.embeddings[here] = block.embeddings[inside]
            found.too_long[here] = block.too_long[inside]
        return found


def chexbert(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    labeler: CheXbert,
    windows: bool = False,
) -> MetricResult:
    """F1 of CheXbert's labels and the cosine of its embeddings.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        labeler: the network that labels both.
        windows: see the module's docstring.

    Returns:
        The values of :mod:`llava_rad.metrics.label_f1` in [0, 1], and ``embedding_similarity``:
        the mean cosine of the pairs' embeddings in [-1, 1], 0 for a pair with an empty text.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    mentions, cut = labeler.mentions([*predictions, *references], windows=windows)
    count = len(predictions)
    cosine = labeler.similarities(predictions, references, windows=windows)
    cosine[some_empty(predictions, references)] = 0.0

    too_long = int(cut.sum())
    notes = []
    empty = sum(map(is_empty, [*predictions, *references]))
    if empty:
        notes.append(f"{counted(empty, 'empty text')} labelled as the network does, as published")
    if too_long:
        how = (
            "labelled in overlapping windows" if windows else "cut at 512 word pieces, as published"
        )
        notes.append(f"{counted(too_long, 'text')} longer than CheXbert reads, {how}")
    facts = {
        "scorer": "llava_rad CheXbert labeler (labels equal to f1chexbert 0.0.2)",
        "checkpoint_sha256": labeler.checkpoint_hash,
        "precision": labeler.precision,
        "long_reports": "windows" if windows else "truncated",
        "texts_over_512_word_pieces": too_long,
    }
    labels = label_f1("chexbert", mentions[:count], mentions[count:], facts=facts)
    similarity = mean_result("chexbert", {"embedding_similarity": cosine}, facts={}, notes=notes)
    return join_results(labels, similarity)


def _strongest(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """One label for each observation out of the windows' labels [windows, 14]."""
    rank = np.array([0, 3, 1, 2])[classes]  # of blank, positive, negative, uncertain
    combined = np.take_along_axis(classes, rank.argmax(axis=0)[None], axis=0)[0]
    combined[-1] = Mention.POSITIVE if (classes[:, -1] == Mention.POSITIVE).all() else Mention.BLANK
    return combined


def _batches(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Cut a list that is sorted by length into batches of at most ``budget`` word pieces."""
    batches: list[list[int]] = [[]]
    held = 0
    for i in order:
        if held + lengths[i] > budget:
            batches.append([])
            held = 0
        batches[-1].append(i)
        held += lengths[i]
    return [batch for batch in batches if batch]


def _read_checkpoint(
    path: Path, attention_heads: int | None
) -> "tuple[BertModel, torch.nn.Linear]":
    """BERT and the 14 heads as one, with sizes read from the weights, in float32 on the CPU."""
    import torch
    from transformers import BertConfig, BertModel

    try:
        state = read_state_dict(path)["model_state_dict"]
        state = {key.removeprefix("module."): value.float() for key, value in state.items()}
        vocabulary, dim = state["bert.embeddings.word_embeddings.weight"].shape
        inner = state["bert.encoder.layer.0.intermediate.dense.weight"].shape[0]
        layers = 1 + max(
            int(key.split(".")[3]) for key in state if key.startswith("bert.encoder.layer.")
        )
    except WeightsError as error:
        raise WeightsError(
            f"not a CheXbert checkpoint: {error.what}",
            where=path,
            remedy=f"Fetch the public one with: hf download {REPOSITORY} {FILENAME}",
            kind="layout",
        ) from error
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(
            "not a CheXbert checkpoint: expected a file made by torch.save that holds "
            "'model_state_dict' with BERT's weights under 'module.bert.'",
            where=path,
            remedy=f"Fetch the public one with: hf download {REPOSITORY} {FILENAME}",
            kind="layout",
        ) from error
    encoder = BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=attention_heads or max(dim // BERT_HEAD_DIM, 1),
            intermediate_size=inner,
            max_position_embeddings=POSITIONS,
        ),
        add_pooling_layer="bert.pooler.dense.weight" in state,
    )
    heads = [torch.nn.Linear(dim, classes) for classes in CLASSES]
    network = torch.nn.ModuleDict({"bert": encoder, "linear_heads": torch.nn.ModuleList(heads)})
    # Older transformers kept this constant in the checkpoint.
    state.pop("bert.embeddings.position_ids", None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit CheXbert's architecture: {error}",
            where=path,
            remedy=f"Fetch the public one with: hf download {REPOSITORY} {FILENAME}",
            kind="layout",
        ) from error
    joined = torch.nn.Linear(dim, sum(CLASSES))
    with torch.no_grad():
        joined.weight.copy_(torch.cat([head.weight for head in heads]))
        joined.bias.copy_(torch.cat([head.bias for head in heads]))
    return encoder, joined
