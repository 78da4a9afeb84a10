"""F1-SRR-BERT: fine-grained labels of sentences, compared report by report, in [0, 1].

SRR-BERT (Delbrouck et al., ACL 2025) is a BERT that gives each sentence any of some dozens of
labels ("Simple pleural effusion (Present)", ...); a report has those of its sentences. The F1 is
weighted by how often references have a label, as RadEval prints it with
``SRR-BERT-Leaves-with-Statuses``; micro and macro averages stand beside it.

Sentences are split by this project's rules, list numbers removed; the published program splits by
NLTK's. A report without words has no labels. Equal sentences go through the network once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.data.sections import tidy
from llava_rad.metrics.label_f1 import label_f1
from llava_rad.metrics.networks import load_network, network_version
from llava_rad.metrics.result import Floats, MetricResult, check_pairs
from llava_rad.metrics.weights import resolve_file
from llava_rad.observations import Mention
from llava_rad.sentences import sentence_spans

if TYPE_CHECKING:
    import torch

DEFAULT_SRR_BERT = "StanfordAIMI/SRR-BERT-Leaves-with-Statuses"
VOCABULARY = "microsoft/BiomedVLP-CXR-BERT-general"
THRESHOLD = 0.5
_LONGEST = 512  # word pieces
_PREFIX = "uncertain_positive/all/"


class SrrBert:
    """The labeler. Build it with :meth:`load`."""

    def __init__(self, network: Any, tokenizer: Any, version: str, name: str) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.version, self.name = version, name
        labels = network.config.id2label
        self.labels = [str(labels[i]) for i in range(network.config.num_labels)]
        self._known: dict[str, NDArray[np.bool_]] = {}

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_SRR_BERT,
        *,
        vocabulary: str | Path | None = None,
        device: "str | torch.device | None" = None,
    ) -> "SrrBert":
        """Load a model.

        Args:
            model: folder, or hub id of a model that is in the local cache.
            vocabulary: ``vocab.txt`` or its folder; by default one beside the model, else that of
                CXR-BERT in the local hub cache.
            device: where the network runs; CUDA where there is one by default.

        Raises:
            WeightsError: a file is not there (kind ``missing``) or is damaged.
        """
        auto = "BertForSequenceClassification"
        network, _ = load_network(model, auto, metric="srr_bert", tokenizer=False, device=device)
        beside = Path(model).expanduser() / "vocab.txt"
        path = resolve_file(
            beside if vocabulary is None and beside.is_file() else vocabulary,
            repo=VOCABULARY,
            filename="vocab.txt",
            metric="srr_bert",
        )
        from transformers import BertTokenizer

        version = network_version(model, "srr_bert")
        return cls(network, BertTokenizer(vocab=str(path)), version, model)

    def label(self, texts: Sequence[str], *, batch_size: int = 64) -> NDArray[np.bool_]:
        """The labels of each text [texts, labels]: those of any of its sentences."""
        sentences = [split_sentences(text) for text in texts]
        distinct = {sentence for some in sentences for sentence in some}
        new = sorted(distinct - self._known.keys(), key=lambda s: (len(s), s))
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            self._known.update(zip(batch, self._run(batch), strict=True))
        found = np.zeros((len(texts), len(self.labels)), dtype=np.bool_)
        for i, some in enumerate(sentences):
            for sentence in some:
                found[i] |= self._known[sentence]
        return found

    def _run(self, sentences: list[str]) -> NDArray[np.bool_]:
        import torch

        device = next(self.network.parameters()).device
        batch = self.tokenizer(
            sentences, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            chances = torch.sigmoid(self.network(**batch).logits)
        found: NDArray[np.bool_] = (chances > THRESHOLD).cpu().numpy()
        return found


def split_sentences(text: str) -> list[str]:
    """The sentences of a report, without list numbers and line breaks."""
    prose = tidy(text)
    return [prose[start:end] for start, end in sentence_spans(prose)]


def srr_bert(
    predictions: Sequence[str], references: Sequence[str], *, labeler: SrrBert
) -> MetricResult:
    """F1 of SRR-BERT's labels.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        labeler: the network that labels both.

    Returns:
        Values ``weighted/f1``, ``micro/f1``, ``macro/f1``, ``samples/f1``, their ``precision`` and
        ``recall``, and ``class/LABEL/...`` with ``support``.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    found = labeler.label([*predictions, *references]).astype(np.int64) * int(Mention.POSITIVE)
    count = len(predictions)
    facts = {
        "scorer": "llava_rad (RadEval's srrbert, sentences by llava_rad)",
        "model": labeler.name,
        "version_sha256": labeler.version,
        "labels": len(labeler.labels),
        "threshold": THRESHOLD,
    }
    whole = label_f1(
        "srr_bert",
        found[:count],
        found[count:],
        facts=facts,
        classes=labeler.labels,
        groups={"all": labeler.labels},
    )

    def combine(totals: Floats) -> dict[str, Floats]:
        return _renamed(whole.combine(totals))

    facts = {key: value for key, value in whole.facts.items() if key != "uncertain"}
    return MetricResult("srr_bert", _renamed(whole.per_pair), whole.sums, combine, facts)


def _renamed(values: dict[str, Floats]) -> dict[str, Floats]:
    """The values of one policy, for there is no uncertain label that could count either way."""
    classes = "uncertain_positive/class/"
    return {
        key.removeprefix(_PREFIX).removeprefix("uncertain_positive/"): value
        for key, value in values.items()
        if key.startswith((_PREFIX, classes))
    }
