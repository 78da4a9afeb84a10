"""CheXbert labels, their F1, and the similarity of CheXbert embeddings.

CheXbert (Smit et al., EMNLP 2020) is a BERT with 14 classification heads on its first token: four
classes (blank, positive, negative, uncertain) for 13 observations, two (blank, positive) for
``No Finding``. This labeler runs on today's transformers, reads the public ``chexbert.pth``, and
gives the same labels as ``f1chexbert`` 0.0.2: it labels many reports at a time, of similar lengths,
and equal reports once.

A report of more than 512 word pieces loses its end, as published; how many did is in the facts.
With ``windows`` it is labelled in overlapping windows instead: positive beats uncertain beats
negative beats blank, and ``No Finding`` must hold in every window.

Labels are those of float32. ``precision="bfloat16"`` is several times faster where the processor
multiplies in it and differs in a label now and then; the facts say which was used.

An empty report goes through the network like any other, as published.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from transformers import BertTokenizer

REPOSITORY, FILENAME = "StanfordAIMI/RRG_scorers", "chexbert.pth"
VOCABULARY = "google-bert/bert-base-uncased"
PRECISIONS = ("float32", "bfloat16")
POSITIONS = 512
WINDOW_STRIDE = 255
BERT_HEAD_DIM = 64


_Label = tuple[NDArray[np.int64], NDArray[np.float32], bool]


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
        encoder: "torch.nn.Module",
        heads: "torch.nn.ModuleList",
        tokenizer: "BertTokenizer",
        checkpoint_hash: str,
        precision: str = "float32",
    ) -> None:
        self.encoder = encoder
        self.heads = heads
        self.tokenizer = tokenizer
        self.checkpoint_hash = checkpoint_hash
        self.precision = precision
        self._known: dict[tuple[str, bool], _Label] = {}

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

        encoder, heads = _read_checkpoint(path, attention_heads)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            encoder.to(device).eval(),
            heads.to(device).eval(),
            BertTokenizer(vocab=str(vocabulary_path)),
            sha256(path),
            precision,
        )

    def label(
        self, texts: Sequence[str], *, windows: bool = False, batch_tokens: int = 1024
    ) -> CheXbertLabels:
        """Label reports.

        Args:
            texts: the reports; those labelled before, by this call or another, cost nothing.
            windows: label reports of more than 512 word pieces in overlapping windows.
            batch_tokens: word pieces, padding included, that go through the network at once.
        """
        new = [text for text in dict.fromkeys(texts) if (text, windows) not in self._known]
        if new:
            labels = self._label_new(new, windows, batch_tokens)
            self._known.update(zip(((text, windows) for text in new), labels, strict=True))
        mentions, embeddings, too_long = zip(
            *(self._known[text, windows] for text in texts), strict=True
        )
        return CheXbertLabels(np.stack(mentions), np.stack(embeddings), np.array(too_long))

    def _label_new(self, texts: list[str], windows: bool, batch_tokens: int) -> "list[_Label]":
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
        classes, vectors = self._run(parts, batch_tokens)
        return [
            (_strongest(classes[span]), vectors[span].mean(axis=0), len(tokens) > room)
            for span, tokens in zip(spans, pieces, strict=True)
        ]

    def _run(
        self, parts: list[list[int]], batch_tokens: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes [parts, 14] and first-token vectors [parts, dim] of lists of word pieces."""
        import torch

        device = next(self.encoder.parameters()).device
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        order = sorted(range(len(parts)), key=lambda i: len(parts[i]))
        classes: list[Any] = [None] * len(parts)
        vectors: list[Any] = [None] * len(parts)
        for batch in _batches(order, [len(part) + 2 for part in parts], batch_tokens):
            rows = [[first, *parts[i], last] for i in batch]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
            lengths = torch.tensor([len(row) for row in rows], device=device)
            mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
            half = torch.autocast(
                device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"
            )
            with torch.inference_mode(), half:
                hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
                best = torch.stack([head(hidden).argmax(dim=1) for head in self.heads], dim=1)
            for i, row, vector in zip(batch, best.cpu(), hidden.float().cpu(), strict=True):
                classes[i], vectors[i] = row.numpy(), vector.numpy()
        return np.stack(classes), np.stack(vectors)


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
    both = labeler.label([*predictions, *references], windows=windows)
    count = len(predictions)
    mine, theirs = both.embeddings[:count], both.embeddings[count:]
    norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = ratio((mine * theirs).sum(axis=1), norms)
    cosine[some_empty(predictions, references)] = 0.0

    too_long = int(both.too_long.sum())
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
    labels = label_f1("chexbert", both.mentions[:count], both.mentions[count:], facts=facts)
    similarity = mean_result("chexbert", {"embedding_similarity": cosine}, facts={}, notes=notes)
    return join_results(labels, similarity)


def _strongest(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """One label for each observation out of the windows' labels [windows, 14]."""
    rank = np.array([0, 3, 1, 2])[classes]  # of blank, positive, negative, uncertain
    combined = np.take_along_axis(classes, rank.argmax(axis=0)[None], axis=0)[0]
    combined[-1] = Mention.POSITIVE if (classes[:, -1] == Mention.POSITIVE).all() else Mention.BLANK
    return combined


def _batches(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Cut a list that is sorted by length into batches of at most ``budget`` padded pieces."""
    batches: list[list[int]] = [[]]
    for i in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[i] > budget:
            batches.append([])
        batches[-1].append(i)
    return [batch for batch in batches if batch]


def _read_checkpoint(
    path: Path, attention_heads: int | None
) -> "tuple[torch.nn.Module, torch.nn.ModuleList]":
    """BERT and the 14 heads, with sizes read from the weights, in float32 on the CPU."""
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
    heads = torch.nn.ModuleList(
        torch.nn.Linear(dim, 2 if name == "No Finding" else 4) for name in OBSERVATIONS
    )
    network = torch.nn.ModuleDict({"bert": encoder, "linear_heads": heads})
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
    return encoder, heads
