"""RaTEScore (Zhao et al., EMNLP 2024): entities of two reports matched by meaning, in [0, 1].

A token classifier (``RaTE-NER-Deberta``) finds entities of five types: anatomy, abnormality,
disease, and the last two as absent. An encoder of medical synonyms (``BioLORD-2023-C``, the first
token's state) turns each into a vector. Each entity is compared with the nearest one of the other
report: its cosine counts with a weight of the two types, and by less where one says present and the
other absent. The weighted mean over a report's entities is precision or recall; the score is their
F1, mean of reports. The weights are the published ones for long reports.

As published a pair in which one report has no entity scores 0.5; one with an empty text scores 0
here. Sentences are split by this project's rules, where the published program uses medspaCy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_rad.errors import WeightsError
from llava_rad.metrics.networks import load_network, network_version
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result, some_empty
from llava_rad.metrics.srr_bert import split_sentences

if TYPE_CHECKING:
    import torch

DEFAULT_NER = "Angelakeke/RaTE-NER-Deberta"
DEFAULT_ENCODER = "FremyCompany/BioLORD-2023-C"
TYPES = ("ABNORMALITY", "ANATOMY", "DISEASE", "NON-ABNORMALITY", "NON-DISEASE")
# Of an entity's type (row) and the type of its nearest one, in the order of TYPES; from RaTEScore's
# affinity_matrix/long_weight.json.
WEIGHTS = np.array(
    [
        *(0.4276119164393705, 0.6240929990607657, 0.0034478181112993847, 0.5431049700217344),
        *(0.27005425386213877, 0.7487824274337533, 0.2856134859160784, 0.4592143222158069),
        *(0.02097055139911715, 0.00013736314126696204, 0.8396510075734789, 0.9950209388542061),
        *(0.8460555030578727, 0.9820689020512646, 0.3789136708096537, 0.16546764653692908),
        *(0.018670610691852826, 0.719397354576018, 0.0009357166071730684, 0.0927333564267591),
        *(0.7759420231214385, 0.1839139293714062, 0.10073046076318157, 0.03860183811876373),
        0.34065681486566446,
    ]
).reshape(5, 5)
NEGATED = 0.8716553966489615
NO_ENTITY = 0.5
_LONGEST, _LONGEST_ENTITY = 512, 30  # word pieces
_SHORTEST = 3  # characters of a sentence

Entity = tuple[str, str]
"""An entity's words and its type."""


@dataclass
class RaTEScorer:
    """The two networks of :func:`ratescore`. Build it with :meth:`load`."""

    ner: Any
    ner_tokenizer: Any
    encoder: Any
    encoder_tokenizer: Any
    versions: dict[str, str]

    def __post_init__(self) -> None:
        self._entities: dict[str, list[Entity]] = {}
        self._vectors: dict[str, Floats] = {}

    @classmethod
    def load(
        cls,
        ner: str = DEFAULT_NER,
        encoder: str = DEFAULT_ENCODER,
        *,
        device: "str | torch.device | None" = None,
    ) -> "RaTEScorer":
        """Load both networks from folders or the local hub cache.

        Raises:
            WeightsError: one is not there (kind ``missing``), is damaged, needs its own code, or
                finds other types of entities.
        """
        auto = "AutoModelForTokenClassification"
        finds = load_network(ner, auto, metric="ratescore", device=device)
        labels = {str(label) for label in finds[0].config.id2label.values()}
        kinds = {label[2:].upper() for label in labels if label != "O"}
        if not kinds or not kinds <= set(TYPES):
            raise WeightsError(
                f"it finds {', '.join(sorted(kinds)) or 'nothing'}, not {', '.join(TYPES)}",
                where=f"ratescore: {ner}",
                remedy=f"Fetch the public one with: hf download {DEFAULT_NER}",
                kind="layout",
            )
        reads = load_network(encoder, "AutoModel", metric="ratescore", device=device)
        versions = {
            "ner_model": ner,
            "ner_sha256": network_version(ner, "ratescore"),
            "encoder_model": encoder,
            "encoder_sha256": network_version(encoder, "ratescore"),
        }
        return cls(*finds, *reads, versions)

    def entities(self, texts: Sequence[str], *, batch_size: int = 32) -> list[list[Entity]]:
        """The entities of each text, in its order; each distinct sentence is read once."""
        sentences = [
            [part for part in split_sentences(text) if len(part) >= _SHORTEST] for text in texts
        ]
        distinct = {part for some in sentences for part in some}
        new = sorted(distinct - self._entities.keys(), key=lambda s: (len(s), s))
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            self._entities.update(zip(batch, self._find(batch), strict=True))
        return [[entity for part in some for entity in self._entities[part]] for some in sentences]

    def vectors(self, words: Sequence[str], *, batch_size: int = 128) -> Floats:
        """Unit vectors [words, dim]; equal words are encoded once."""
        import torch

        device = next(self.encoder.parameters()).device
        new = sorted(set(words) - self._vectors.keys(), key=lambda s: (len(s), s))
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            pieces = self.encoder_tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=_LONGEST_ENTITY,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                states = self.encoder(**pieces).last_hidden_state[:, 0]
                states = torch.nn.functional.normalize(states.float(), dim=1).cpu().numpy()
            self._vectors.update(zip(batch, states.astype(np.float64), strict=True))
        return np.stack([self._vectors[word] for word in words])

    def _find(self, sentences: list[str]) -> list[list[Entity]]:
        import torch

        device = next(self.ner.parameters()).device
        batch = self.ner_tokenizer(
            sentences, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            classes = self.ner(**batch).logits.argmax(dim=2).cpu()
        names = self.ner.config.id2label
        found = []
        special = self.ner_tokenizer.all_special_tokens
        rows = zip(batch["input_ids"], batch["attention_mask"], classes, strict=True)
        for ids, mask, row in rows:
            kept = mask.bool().cpu()
            labels = [str(names[int(number)]) for number in row[kept]]
            tokens = self.ner_tokenizer.convert_ids_to_tokens(ids.cpu()[kept].tolist())
            labels = [
                "O" if token in special else label
                for token, label in zip(tokens, labels, strict=True)
            ]
            found.append(
                [
                    (self.ner_tokenizer.convert_tokens_to_string(tokens[start:end]).strip(), kind)
                    for start, end, kind in spans(labels)
                ]
            )
        return found


def spans(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """First token, end and type of each entity of BIO labels; an I without its B is none."""
    found: list[tuple[int, int, str]] = []
    start, kind = None, ""
    for i, label in enumerate([*labels, "O"]):
        if start is not None and not label.startswith("I-"):
            found.append((start, i, kind))
            start = None
        if label.startswith("B-"):
            start, kind = i, label[2:].upper()
    return found


def ratescore(
    predictions: Sequence[str], references: Sequence[str], *, scorer: RaTEScorer
) -> MetricResult:
    """RaTEScore of each pair and its mean.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        scorer: the two networks.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    found = scorer.entities([*predictions, *references])
    mine, theirs = found[: len(predictions)], found[len(predictions) :]
    values = np.array([_pair(a, b, scorer) for a, b in zip(mine, theirs, strict=True)])
    values[some_empty(predictions, references)] = 0.0
    facts = {
        "scorer": "llava_rad (RaTEScore's definition, sentences by llava_rad)",
        **scorer.versions,
        "weights": "long",
        "without_entities": sum(not a or not b for a, b in zip(mine, theirs, strict=True)),
        "range": "0-1",
    }
    return mean_result("ratescore", {"ratescore": values}, facts=facts)


def _pair(mine: list[Entity], theirs: list[Entity], scorer: RaTEScorer) -> float:
    if not mine or not theirs:
        return NO_ENTITY
    cosine = scorer.vectors([w for w, _ in mine]) @ scorer.vectors([w for w, _ in theirs]).T
    kinds, others = [kind for _, kind in mine], [kind for _, kind in theirs]
    precision = one_way(cosine, kinds, others)
    recall = one_way(cosine.T, others, kinds)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def one_way(cosine: Floats, kinds: Sequence[str], others: Sequence[str]) -> float:
    """The weighted mean of each entity's cosine [entities, others] with the nearest other one."""
    nearest = cosine.argmax(axis=1)
    score = total = 0.0
    for i, kind in enumerate(kinds):
        other = others[int(nearest[i])]
        weight = float(WEIGHTS[TYPES.index(kind), TYPES.index(other)])
        opposite = "ANATOMY" not in (kind, other) and kind.startswith("NON-") != other.startswith(
            "NON-"
        )
        score += float(cosine[i, nearest[i]]) * weight * (NEGATED if opposite else 1.0)
        total += weight
    return score / total if total else 0.0
