"""All metrics by name, computed together on one list of pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llava_rad.errors import ConfigError, MetricError, WeightsError, shown
from llava_rad.metrics.annotator import RadGraphAnnotator
from llava_rad.metrics.bertscore import DEFAULT_MODEL, BertScorer, bertscore
from llava_rad.metrics.bleu import (
    bleu_coco,
    bleu_rexrank,
    bleu_sacrebleu,
    split_rexrank,
    tokenize_13a,
)
from llava_rad.metrics.chexbert import CheXbert, chexbert
from llava_rad.metrics.cider import cider
from llava_rad.metrics.green import DEFAULT_GREEN, green, green_judge, prompt_hash, read_prompt
from llava_rad.metrics.grounded_radfact import Phrase, evidence_prompt_hash, grounded_radfact
from llava_rad.metrics.judge_llm import Judge, RememberingJudge
from llava_rad.metrics.label_f1 import GROUPS, POLICIES
from llava_rad.metrics.language import is_english
from llava_rad.metrics.meteor import meteor, meteor_wordnet, tokenize_words
from llava_rad.metrics.networks import find_network
from llava_rad.metrics.radcliq import BERTSCORE_MODEL, RadCliQParts, radcliq, radgraph_radcliq
from llava_rad.metrics.radfact import check_judge, radfact, radfact_judge, radfact_prompt_hash
from llava_rad.metrics.radgraph import radgraph_f1
from llava_rad.metrics.ratescore import DEFAULT_ENCODER, DEFAULT_NER, RaTEScorer, ratescore
from llava_rad.metrics.result import MetricResult, check_pairs, is_empty
from llava_rad.metrics.rouge import rouge, rouge_l_coco, split_at_spaces, tokenize_letters
from llava_rad.metrics.rules import chexpert_rules, label_reports
from llava_rad.metrics.srr_bert import DEFAULT_SRR_BERT, SrrBert, srr_bert
from llava_rad.metrics.temporal import temporal_f1
from llava_rad.metrics.tokens import Tokens
from llava_rad.observations import Mention

_REMEMBERED = 200_000  # texts


@dataclass(frozen=True)
class MetricSettings:
    """How the metrics are computed and where those with weights find them.

    Attributes:
        rouge_stemmer: ROUGE on Porter stems.
        chexbert: checkpoint, its folder or a hub repository; else the local hub cache.
        chexbert_vocabulary: BERT's uncased vocabulary; else beside the checkpoint or the cache.
        chexbert_attention_heads: for a checkpoint whose heads do not have 64 dimensions.
        chexbert_precision: ``"float32"`` or the faster, almost equal ``"bfloat16"``.
        chexbert_windows: label reports over 512 word pieces in windows instead of cutting them.
        radgraph: model folder, archive or a hub repository; else the local hub cache.
        radgraph_model: ``"radgraph"`` or ``"radgraph-xl"``.
        radgraph_casing: ``"lowercase"`` or ``"published"``.
        bertscore_model: folder or cached hub id.
        bertscore_layer: hidden layer to compare.
        bertscore_rescale: subtract the baseline of unrelated sentences.
        bertscore_baseline: table of baselines.
        green: GREEN's LLM, a folder or cached hub id.
        green_prompt: see :func:`llava_rad.metrics.green.read_prompt`.
        ratescore_ner: RaTEScore's finder of entities, a folder or cached hub id.
        ratescore_encoder: RaTEScore's encoder of synonyms, a folder or cached hub id.
        srr_bert: SRR-BERT, a folder or cached hub id.
        srr_bert_vocabulary: its ``vocab.txt`` or the folder; else beside the model or the cache.
        radfact_llm: RadFact's judge, a folder or cached hub id.
        radfact_endpoint: address of an API of OpenAI's form, which judges instead.
        radfact_model: the judge's name at the endpoint.
        cache: folder for annotations and judges' answers; else the user's cache folder.
        device: where networks run; CUDA where there is one by default.
    """

    rouge_stemmer: bool = False
    chexbert: str | Path | None = None
    chexbert_vocabulary: str | Path | None = None
    chexbert_attention_heads: int | None = None
    chexbert_precision: str = "float32"
    chexbert_windows: bool = False
    radgraph: str | Path | None = None
    radgraph_model: str = "radgraph-xl"
    radgraph_casing: str = "lowercase"
    bertscore_model: str = DEFAULT_MODEL
    bertscore_layer: int | None = None
    bertscore_rescale: bool = False
    bertscore_baseline: Path | None = None
    green: str = DEFAULT_GREEN
    green_prompt: Path | None = None
    ratescore_ner: str = DEFAULT_NER
    ratescore_encoder: str = DEFAULT_ENCODER
    srr_bert: str = DEFAULT_SRR_BERT
    srr_bert_vocabulary: Path | None = None
    radfact_llm: str | None = None
    radfact_endpoint: str | None = None
    radfact_model: str | None = None
    cache: Path | None = None
    device: str | None = None


class _Shared:
    """What metrics of the same settings share, each made when it is first needed.

    Networks, the tokens of texts by each tokenizer, and what the rules say of texts.
    """

    def __init__(self, settings: MetricSettings) -> None:
        self.settings = settings
        self.labels: dict[str, list[Mention]] = {}

    def forget_texts(self) -> None:
        """Forget the texts, where a scorer in long use has read too many to remember."""
        if len(self.labels) > _REMEMBERED:
            self.labels = {}
        for name, value in [*vars(self).items()]:
            if isinstance(value, Tokens) and value.remembered > _REMEMBERED:
                delattr(self, name)  # cached_property makes another
        if "chexbert" in vars(self):
            self.chexbert.forget(_REMEMBERED)

    @cached_property
    def white_space(self) -> Tokens:
        return Tokens(str.split)

    @cached_property
    def single_spaces(self) -> Tokens:
        return Tokens(split_at_spaces)

    @cached_property
    def tokens_rexrank(self) -> Tokens:
        return Tokens(split_rexrank)

    @cached_property
    def tokens_13a(self) -> Tokens:
        return Tokens(tokenize_13a())

    @cached_property
    def letters(self) -> Tokens:
        return Tokens(tokenize_letters(stemmer=self.settings.rouge_stemmer))

    @cached_property
    def words(self) -> Tokens:
        return Tokens(tokenize_words())

    @cached_property
    def chexbert(self) -> CheXbert:
        s = self.settings
        return CheXbert.load(
            s.chexbert,
            vocabulary=s.chexbert_vocabulary,
            attention_heads=s.chexbert_attention_heads,
            precision=s.chexbert_precision,
            device=s.device,
        )

    @cached_property
    def radgraph(self) -> RadGraphAnnotator:
        return self._annotator(self.settings.radgraph_model)

    @cached_property
    def radgraph_of_radcliq(self) -> RadGraphAnnotator:
        if self.settings.radgraph_model == "radgraph":
            return self.radgraph
        return self._annotator("radgraph")

    @cached_property
    def bertscore(self) -> BertScorer:
        s = self.settings
        return BertScorer.load(
            s.bertscore_model,
            layer=s.bertscore_layer,
            rescale=s.bertscore_rescale,
            baseline_file=s.bertscore_baseline,
            device=s.device,
        )

    @cached_property
    def radcliq(self) -> RadCliQParts:
        named = self.settings.bertscore_model  # a folder of the model, perhaps
        model = named if Path(named).name == BERTSCORE_MODEL else BERTSCORE_MODEL
        scorer = BertScorer.load(model, rescale=True, device=self.settings.device)
        return RadCliQParts(self.radgraph_of_radcliq, scorer, self.chexbert)

    @cached_property
    def green(self) -> RememberingJudge:
        # What is missing is told before gigabytes are loaded, the model first.
        find_network(self.settings.green, "green")
        wording = prompt_hash(self.green_prompt)
        judge = green_judge(self.settings.green, device=self.settings.device)
        return RememberingJudge(judge, wording, self.settings.cache)

    @cached_property
    def green_prompt(self) -> str:
        return read_prompt(self.settings.green, self.settings.green_prompt)

    @cached_property
    def ratescore(self) -> RaTEScorer:
        s = self.settings
        return RaTEScorer.load(s.ratescore_ner, s.ratescore_encoder, device=s.device)

    @cached_property
    def srr_bert(self) -> SrrBert:
        s = self.settings
        return SrrBert.load(s.srr_bert, vocabulary=s.srr_bert_vocabulary, device=s.device)

    @cached_property
    def radfact_judge(self) -> Judge:
        s = self.settings
        return radfact_judge(s.radfact_llm, s.radfact_endpoint, s.radfact_model, device=s.device)

    @cached_property
    def radfact(self) -> RememberingJudge:
        return RememberingJudge(self.radfact_judge, radfact_prompt_hash(), self.settings.cache)

    @cached_property
    def evidence(self) -> RememberingJudge:
        return RememberingJudge(self.radfact_judge, evidence_prompt_hash(), self.settings.cache)

    def _annotator(self, model_type: str) -> RadGraphAnnotator:
        s = self.settings
        return RadGraphAnnotator(model_type, weights=s.radgraph, cache=s.cache, device=s.device)


_Compute = Callable[[Sequence[str], Sequence[str], _Shared], MetricResult]

METRICS: dict[str, _Compute] = {
    "bleu_coco": lambda p, r, s: bleu_coco(p, r, tokens=s.white_space),
    "bleu_sacrebleu": lambda p, r, s: bleu_sacrebleu(p, r, tokens=s.tokens_13a),
    "rouge": lambda p, r, s: rouge(p, r, stemmer=s.settings.rouge_stemmer, tokens=s.letters),
    "rouge_l_coco": lambda p, r, s: rouge_l_coco(p, r, tokens=s.single_spaces),
    "meteor": lambda p, r, s: meteor(p, r, tokens=s.words),
    "meteor_wordnet": lambda p, r, s: meteor_wordnet(p, r, tokens=s.words),
    "cider": lambda p, r, s: cider(p, r, tokens=s.white_space),
    "chexpert_rules": lambda p, r, s: chexpert_rules(p, r, known=s.labels),
    "chexbert": lambda p, r, s: chexbert(
        p, r, labeler=s.chexbert, windows=s.settings.chexbert_windows
    ),
    "radgraph": lambda p, r, s: radgraph_f1(
        p, r, annotator=s.radgraph, casing=s.settings.radgraph_casing
    ),
    "bertscore": lambda p, r, s: bertscore(p, r, scorer=s.bertscore),
    "bleu_rexrank": lambda p, r, s: bleu_rexrank(p, r, tokens=s.tokens_rexrank),
    "radgraph_radcliq": lambda p, r, s: radgraph_radcliq(p, r, annotator=s.radgraph_of_radcliq),
    "radcliq_v0": lambda p, r, s: radcliq("radcliq_v0", p, r, parts=s.radcliq),
    "radcliq_v1": lambda p, r, s: radcliq("radcliq_v1", p, r, parts=s.radcliq),
    "temporal_f1": lambda p, r, s: temporal_f1(p, r),
    "srr_bert": lambda p, r, s: srr_bert(p, r, labeler=s.srr_bert),
    "ratescore": lambda p, r, s: ratescore(p, r, scorer=s.ratescore),
    "green": lambda p, r, s: green(p, r, judge=s.green, prompt=s.green_prompt),
    "radfact": lambda p, r, s: radfact(p, r, judge=s.radfact),
}
"""Every metric, by name."""

DEFINITIONS = {
    "bleu_coco": "BLEU-1..4 (Papineni 2002) by pycocoevalcap's rules: white-space tokens, case "
    "counts, no smoothing; corpus level; 0 to 1",
    "bleu_sacrebleu": "BLEU-1..4 by sacrebleu's rules: 13a tokens, case counts, exponential "
    "smoothing; corpus level; 0 to 100",
    "rouge": "ROUGE-1/2/L/Lsum F1 (Lin 2004) by rouge_score's rules: beta 1; mean of "
    "reports; 0 to 1",
    "rouge_l_coco": "ROUGE-L by pycocoevalcap's rules: single-space tokens, beta 1.2; mean of "
    "reports; 0 to 1",
    "meteor": "METEOR (Banerjee 2005) by NLTK's rules on spelling and Porter stem, without "
    "synonyms; not the METEOR 1.5 of many tables; mean of reports; 0 to 1",
    "meteor_wordnet": "METEOR (Banerjee 2005) by NLTK's rules on spelling, Porter stem and "
    "WordNet; not the METEOR 1.5 of many tables; mean of reports; 0 to 1",
    "cider": "CIDEr-D (Vedantam 2015) by pycocoevalcap's rules, weights from these references; "
    "mean of reports; 0 to 10",
    "chexpert_rules": "F1 of the 14 CheXpert observations that this project's rules find; not "
    "CheXbert, not the CheXpert labeler; 0 to 1",
    "chexbert": "F1 of the 14 CheXpert observations by CheXbert (Smit 2020), labels as f1chexbert "
    "0.0.2 gives them; cosine of its embeddings; 0 to 1",
    "radgraph": "RadGraph F1 (Delbrouck 2022) of entities and relations, as radgraph 0.1.18 scores "
    "it; mean of reports; 0 to 1",
    "bertscore": "BERTScore (Zhang 2020) by bert_score's rules without idf; mean of reports; at "
    "most 1",
    "bleu_rexrank": "BLEU-2 by ReXrank's rules (CXR-Report-Metric): lower-cased, spaces between "
    "tokens, smoothed; mean of reports; 0 to 1",
    "radgraph_radcliq": "Mean of the F1 of RadGraph's entities and of its relations (Yu 2023), as "
    "ReXrank prints it; mean of reports; 0 to 1",
    "radcliq_v0": "RadCliQ-v0 (Yu 2023), a linear model of radiologists' error counts; mean of "
    "reports; lower is better",
    "radcliq_v1": "RadCliQ-v1 (Yu 2023), a linear model of standardised error counts; "
    "mean of reports; lower is better",
    "temporal_f1": "F1 of the words of change (new, unchanged, worse ...) of both reports, as "
    "RadEval prints it, without Stanza; mean of reports; 0 to 1",
    "srr_bert": "F1 of SRR-BERT's labels (Delbrouck 2025), weighted by support; 0 to 1",
    "ratescore": "RaTEScore (Zhao 2024), entities matched by meaning; mean of reports; 0 to 1",
    "green": "GREEN (Ostmeier 2024), an LLM's count of matched findings and significant errors; "
    "mean of reports; 0 to 1",
    "radfact": "RadFact's logical scores (Bannur 2024), by a judge and prompts that the output "
    "names; 0 to 1",
}
"""What each metric is, from where, and its range."""

RANGES = {"bleu_sacrebleu": 100.0, "cider": 10.0, "radcliq_v0": 10.0}
"""The largest value of the metrics whose range does not end at 1."""

_WHEN_ASKED = (
    "meteor_wordnet",
    "bleu_rexrank",
    "radgraph_radcliq",
    "radcliq_v0",
    "radcliq_v1",
    "temporal_f1",
    "srr_bert",
    "ratescore",
    "green",
    "radfact",
)
DEFAULT_METRICS = tuple(name for name in METRICS if name not in _WHEN_ASKED)

SPELLING = frozenset(
    (
        *("bleu_coco", "bleu_sacrebleu", "bleu_rexrank", "rouge", "rouge_l_coco"),
        *("meteor", "cider"),
    )
)
"""Metrics that compare words alone, in any language."""

ENGLISH_ONLY = frozenset(METRICS) - SPELLING
"""Metrics whose rules or networks know English alone."""

# Published tables count uncertain mentions either way, so both stand side by side.
_LABELS = tuple(
    f"{policy}/{group}/{average}/f1"
    for group in GROUPS
    for average in ("micro", "macro")
    for policy in POLICIES
)
HEADLINES: dict[str, tuple[str, ...]] = {
    "bleu_coco": ("bleu_1", "bleu_2", "bleu_3", "bleu_4"),
    "bleu_sacrebleu": ("bleu_4",),
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "rouge_l_coco": ("rougeL",),
    "meteor": ("meteor",),
    "meteor_wordnet": ("meteor",),
    "cider": ("cider",),
    "chexpert_rules": _LABELS,
    "chexbert": (*_LABELS, "embedding_similarity"),
    "radgraph": ("radgraph_f1", "simple/f1", "complete/f1"),
    "bertscore": ("f1",),
    "bleu_rexrank": ("bleu_2",),
    "radgraph_radcliq": ("f1", "entity_f1", "relation_f1"),
    "radcliq_v0": ("radcliq_v0",),
    "radcliq_v1": ("radcliq_v1",),
    "temporal_f1": ("f1",),
    "srr_bert": ("weighted/f1", "micro/f1", "macro/f1"),
    "ratescore": ("ratescore",),
    "green": ("green",),
    "radfact": ("logical_precision", "logical_recall", "logical_f1"),
}
"""The values of each metric that tables show; the others are in the results."""

JUDGED = frozenset(("green", "radfact"))
"""Metrics for which an LLM reads each pair."""

_LEAVE_OUT = ("missing", "language", "endpoint")  # kinds of errors that others can do without

LOWER_IS_BETTER = frozenset(("radcliq_v0", "radcliq_v1"))


@dataclass(frozen=True)
class Scores:
    """The metrics of one list of pairs.

    Attributes:
        results: the metrics that were computed, by name.
        left_out: why each of the others was not, by name: its weights are missing (with the
            command that fetches them), it does not know the reports' language, or the endpoint of
            its judge does not answer.
    """

    results: dict[str, MetricResult]
    left_out: dict[str, str] = field(default_factory=dict)

    def headlines(self) -> dict[str, float]:
        """The values that tables show, by ``metric/value``."""
        return headline_values(self.results)


class Scorer:
    """Computes a choice of metrics, again and again, loading each network once.

    Args:
        metrics: names out of :data:`METRICS`.
        settings: how and with which weights.
        require: raise where a metric cannot be computed, instead of leaving it out.

    Raises:
        ConfigError: there is no metric of that name, or RadFact's judge is named wrongly.
    """

    def __init__(
        self,
        metrics: Sequence[str] = DEFAULT_METRICS,
        settings: MetricSettings | None = None,
        *,
        require: bool = False,
    ) -> None:
        if isinstance(metrics, str):
            raise ConfigError(
                f"metrics are a list of names, got the text {shown(metrics)}",
                remedy="Put the names into a list",
                kind="not_a_list",
            )
        for name in metrics:
            if name not in METRICS:
                raise ConfigError(
                    f"there is no metric '{name}'",
                    remedy=f"Choose among {', '.join(METRICS)}",
                    kind="unknown_metric",
                )
        self.metrics = tuple(dict.fromkeys(metrics))
        self.settings = settings or MetricSettings()
        if "radfact" in self.metrics:
            s = self.settings  # told before hours of other metrics
            check_judge(s.radfact_llm, s.radfact_endpoint, s.radfact_model)
        self.require = require
        self._shared = _Shared(self.settings)

    def only(self, metrics: Sequence[str]) -> "Scorer":
        """A scorer of some of the metrics, with the same networks and remembered texts."""
        other = Scorer(metrics, self.settings, require=self.require)
        other._shared = self._shared
        return other

    def label_reports(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """What the rules say of each text [texts, 14]; texts that were scored are known."""
        return label_reports(texts, self._shared.labels)

    def grounded_radfact(
        self, predicted: Sequence[Sequence[Phrase]], expected: Sequence[Sequence[Phrase]]
    ) -> MetricResult:
        """RadFact on phrases with boxes, by the judge of the metric ``radfact``."""
        return grounded_radfact(predicted, expected, judge=self._shared.evidence)

    def __call__(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        *,
        languages: Sequence[str] = (),
        progress: Callable[[str], None] | None = None,
    ) -> Scores:
        """Compute the metrics.

        Args:
            predictions: generated texts.
            references: true texts, in the same order.
            languages: the languages the texts are known to be in; English where none is given.
            progress: called with each metric's name before it is computed.

        Raises:
            MetricError: the pairs are not two equally long, non-empty lists of strings, all
                references are blank, or a required metric does not know the language or its
                judge's endpoint does not answer.
            WeightsError: a required metric's weights are missing, or weights are damaged.
        """
        check_pairs(predictions, references)
        self._shared.forget_texts()
        if all(map(is_empty, references)):
            raise MetricError(
                "all references are blank, so there is nothing to compare with",
                remedy="Give the true texts; check which field they were read from",
                kind="blank_references",
            )
        others = sorted({language for language in languages if not is_english([language])})
        results: dict[str, MetricResult] = {}
        left_out: dict[str, str] = {}
        for name in self.metrics:
            if progress:
                progress(name)
            try:
                if others and name in ENGLISH_ONLY:
                    raise MetricError(
                        f"it knows English alone, and there are reports in {', '.join(others)}",
                        where=name,
                        remedy="Score English reports, or choose metrics of spelling",
                        kind="language",
                    )
                results[name] = METRICS[name](predictions, references, self._shared)
            except (MetricError, WeightsError) as error:
                if self.require or error.kind not in _LEAVE_OUT:
                    raise
                left_out[name] = str(error).removeprefix(f"{name}: ")
        return Scores(results, left_out)


def score(
    predictions: Sequence[str],
    references: Sequence[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    settings: MetricSettings | None = None,
    languages: Sequence[str] = (),
    require: bool = False,
) -> Scores:
    """Compute metrics on one list of pairs; see :class:`Scorer`."""
    return Scorer(metrics, settings, require=require)(predictions, references, languages=languages)


def headline_values(results: Mapping[str, MetricResult]) -> dict[str, float]:
    """The values of some results that tables show, by ``metric/value``."""
    return {
        f"{name}/{value}": numbers[value]
        for name, numbers in ((name, result.values) for name, result in results.items())
        for value in HEADLINES[name]
    }
