"""BERTScore (Zhang et al., ICLR 2020): greedy matching of contextual word pieces by cosine.

As ``bert_score`` 0.3.13 computes it without inverse document frequencies: the hidden state of one
layer, the special tokens matched against but not counted, in [-1, 1]; a mean over pairs. The
package itself fails on empty texts with transformers 5. With ``rescale`` a value v becomes
(v - b) / (1 - b), where b is what unrelated English sentences get from the same model and layer; it
is then no longer bounded below. A pair with an empty text scores 0 in both scales.

The values depend on the model and layer more than on the texts: name both.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_rad.errors import ConfigError, MetricError
from llava_rad.metrics.networks import load_network
from llava_rad.metrics.result import Floats, MetricResult, check_pairs, mean_result, some_empty
from llava_rad.readers import read_table

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "distilroberta-base"
# The layer that bert_score picked for a model on WMT16, and its English baselines of P, R and F.
LAYERS = {
    "distilroberta-base": 5,
    "roberta-large": 17,
    "bert-base-uncased": 9,
    "distilbert-base-uncased": 5,
    "microsoft/deberta-xlarge-mnli": 40,
}
BASELINES = {
    ("distilbert-base-uncased", 5): (0.6666034, 0.66660464, 0.66620487),
    ("distilroberta-base", 5): (0.84732, 0.84759504, 0.8473319),
    ("roberta-large", 17): (0.83150584, 0.8314941, 0.83122575),
}


_UNBOUNDED = 1 << 20  # word pieces, for models without positions of their own
_PAIRS = 256  # whose texts are embedded together
_NUMBERS_HELD = 1 << 25  # of texts that other pairs may need again, 128 MB


@dataclass(frozen=True)
class BertScorer:
    """A model for :func:`bertscore`. Build it with :meth:`load`."""

    encoder: Any
    tokenizer: Any
    name: str
    layer: int
    baseline: tuple[float, float, float] | None

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        layer: int | None = None,
        rescale: bool = False,
        baseline_file: Path | None = None,
        device: "str | torch.device | None" = None,
    ) -> "BertScorer":
        """Load an encoder from a folder or the local hub cache.

        Args:
            model: folder, or hub id of a model that is in the local cache; a folder of the name
                of a known model, such as ``models/distilroberta-base``, is taken as that one.
            layer: hidden layer to compare; needed where bert_score has no choice for the model.
            rescale: subtract the baseline of unrelated sentences.
            baseline_file: ``bert_score``'s table of baselines for this model, with columns LAYER,
                P, R and F; needed where this file does not know them.
            device: where the model runs; CUDA where there is one by default.

        Raises:
            WeightsError: the model is not there (kind ``missing``), is damaged, or needs code
                that comes with it.
            ConfigError: the layer is not known.
            MetricError: the baseline is not.
        """
        # A folder of a known model's name is that model.
        known = model if model in LAYERS else Path(model).name
        layer = LAYERS.get(known) if layer is None else layer
        if layer is None:
            raise ConfigError(
                "which layer of the model to compare is not known",
                where=f"bertscore: {model}",
                remedy="Name the layer",
                kind="no_layer",
            )
        baseline = _baseline(known, layer, baseline_file) if rescale else None
        encoder, tokenizer = load_network(model, "AutoModel", metric="bertscore", device=device)
        if not 0 <= layer <= encoder.config.num_hidden_layers:
            raise ConfigError(
                f"the model has layers 0 to {encoder.config.num_hidden_layers}, not {layer}",
                where=f"bertscore: {model}",
                remedy="Name one of them",
                kind="no_layer",
            )
        return cls(encoder, tokenizer, model, layer, baseline)

    def embed(self, texts: Sequence[str], *, batch_size: int = 32) -> "list[torch.Tensor]":
        """Unit vectors of each text's word pieces, specials included [pieces, dim]."""
        import torch

        device = next(self.encoder.parameters()).device
        # Byte-level tokenizers see the first word as the others only after a space.
        space = " " if type(self.tokenizer).__name__.startswith(("Roberta", "GPT2")) else ""
        longest = min(self.tokenizer.model_max_length, _positions(self.encoder))
        rows = self.tokenizer(
            [space + text.strip() for text in texts], truncation=True, max_length=longest
        )["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        vectors: list[Any] = [None] * len(rows)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, return_tensors="pt"
            ).to(device)
            with torch.inference_mode():
                states = self.encoder(**batch, output_hidden_states=True).hidden_states[self.layer]
                states = torch.nn.functional.normalize(states, dim=-1)
            for i, state in zip(chosen, states, strict=True):
                vectors[i] = state[: len(rows[i])].clone()  # without the batch around it
        return vectors


def bertscore(
    predictions: Sequence[str], references: Sequence[str], *, scorer: BertScorer
) -> MetricResult:
    """BERTScore precision, recall and F1: means over pairs.

    Raises:
        MetricError: the pairs are not two equally long, non-empty lists of strings.
    """
    check_pairs(predictions, references)
    empty = some_empty(predictions, references)
    scores: Floats = np.zeros((len(predictions), 3))
    order = _order(predictions, references, np.flatnonzero(~empty).tolist())
    held: dict[str, torch.Tensor] = {}
    for start in range(0, len(order), _PAIRS):
        chosen = order[start : start + _PAIRS]
        needed = dict.fromkeys(text for i in chosen for text in (predictions[i], references[i]))
        new = [text for text in needed if text not in held]
        if new:
            held |= dict(zip(new, scorer.embed(new), strict=True))
        for i in chosen:
            cosine = held[predictions[i]] @ held[references[i]].T  # [pieces, pieces]
            # The first and the last piece are the special tokens.
            precision = float(cosine.max(dim=1).values[1:-1].mean())
            recall = float(cosine.max(dim=0).values[1:-1].mean())
            total = precision + recall
            scores[i] = precision, recall, 2 * precision * recall / total if total else 0.0
        held = _newest(held, needed)
    if scorer.baseline is not None:
        baseline = np.array(scorer.baseline)
        scores = np.where(empty[:, None], 0.0, (scores - baseline) / (1 - baseline))
    facts = {
        "scorer": "llava_rad (bert_score 0.3.13's definition)",
        "model": scorer.name,
        "layer": scorer.layer,
        "idf": False,
        "rescaled": scorer.baseline is not None,
        "range": "at most 1",
    }
    per_pair = {name: scores[:, i] for i, name in enumerate(("precision", "recall", "f1"))}
    return mean_result("bertscore", per_pair, facts=facts)


def _order(predictions: Sequence[str], references: Sequence[str], pairs: list[int]) -> list[int]:
    """The pairs with equal texts of one side beside each other, and like lengths together.

    That side is taken by which fewer texts are embedded again: those of the other side that are
    rare, for what comes all the time is held.
    """
    often = len(pairs) / _PAIRS

    def again(other: Sequence[str]) -> int:
        return sum(n for n in Counter(other[i] for i in pairs).values() if n < often)

    side = predictions if again(references) <= again(predictions) else references
    return sorted(pairs, key=lambda i: (len(side[i]), side[i]))


def _newest(held: "dict[str, torch.Tensor]", needed: Iterable[str]) -> "dict[str, torch.Tensor]":
    """What fits into memory of the vectors of texts, those that were needed last first."""
    room, kept = _NUMBERS_HELD, {}
    last = dict.fromkeys(needed)
    for text in [*last, *(text for text in reversed(held) if text not in last)]:
        room -= held[text].numel()
        if room < 0:
            break
        kept[text] = held[text]
    return dict(reversed(kept.items()))


def _positions(encoder: Any) -> int:
    """How many word pieces a model has positions for.

    Models like RoBERTa number their positions from behind the padding token's id.
    """
    for name, module in encoder.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return len(module.weight) - padding - 1
    return getattr(encoder.config, "max_position_embeddings", None) or _UNBOUNDED


def _baseline(model: str, layer: int, file: Path | None) -> tuple[float, float, float]:
    if file is None:
        if (model, layer) in BASELINES:
            return BASELINES[model, layer]
        raise MetricError(
            f"the baseline of layer {layer} is not known",
            where=f"bertscore: {model}",
            remedy="Give bert_score's table of baselines for this model, or do not rescale",
            kind="no_baseline",
        )
    try:
        for row in read_table(file, ("LAYER", "P", "R", "F"), error=MetricError):
            if int(row["LAYER"]) == layer:
                return float(row["P"]), float(row["R"]), float(row["F"])
    except (MetricError, ValueError) as error:
        raise MetricError(
            "not a table of baselines with columns LAYER, P, R and F",
            where=file,
            remedy="Give the file that bert_score ships for this model",
            kind="no_baseline",
        ) from error
    raise MetricError(
        f"the table has no layer {layer}",
        where=file,
        remedy="Give the file that bert_score ships for this model",
        kind="no_baseline",
    )
