"""The options of the metrics, for every program that scores texts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from llava_rad.cli.options import PresetName, Resamples, SectionName, names
from llava_rad.evaluation.presets import AppliedPreset, apply_preset
from llava_rad.evaluation.primary import PRIMARY
from llava_rad.metrics import DEFAULT_METRICS, METRICS, MetricSettings, Scorer


@dataclass(frozen=True)
class Scoring:
    """Which metrics are computed, how, and with which weights."""

    TITLE: ClassVar[str] = "Metrics"

    metrics: Annotated[
        str, typer.Option(help=f"Names with commas between, out of: {', '.join(METRICS)}.")
    ] = ", ".join(DEFAULT_METRICS)
    primary: Annotated[
        str, typer.Option(help="The one value that counts, declared before: METRIC/VALUE.")
    ] = PRIMARY
    require: Annotated[
        bool, typer.Option("--require", help="Fail where a metric cannot be computed.")
    ] = False
    resamples: Resamples = 1000
    rouge_stemmer: Annotated[
        bool, typer.Option("--rouge-stemmer", help="Compute ROUGE on Porter stems.")
    ] = False
    chexbert: Annotated[
        str | None,
        typer.Option(help="CheXbert's weights: chexbert.pth, its folder, or a hub repository."),
    ] = None
    chexbert_vocabulary: Annotated[
        Path | None, typer.Option(help="BERT's uncased vocab.txt or its folder.")
    ] = None
    chexbert_attention_heads: Annotated[
        int | None,
        typer.Option(min=1, help="For a checkpoint whose heads do not have 64 dimensions."),
    ] = None
    chexbert_precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="CheXbert's number format; bfloat16 is faster and almost equal."),
    ] = "float32"
    chexbert_windows: Annotated[
        bool, typer.Option("--chexbert-windows", help="Label long reports in windows.")
    ] = False
    radgraph: Annotated[
        str | None,
        typer.Option(help="RadGraph's weights: a folder, an archive, or a hub repository."),
    ] = None
    radgraph_model: Annotated[
        Literal["radgraph", "radgraph-xl"], typer.Option(help="Which RadGraph.")
    ] = "radgraph-xl"
    radgraph_casing: Annotated[
        Literal["lowercase", "published"], typer.Option(help="How entities are compared.")
    ] = "lowercase"
    radgraph_cache: Annotated[
        Path | None,
        typer.Option(help="The folder for annotations and answers, if not the user's cache."),
    ] = None
    bertscore_model: Annotated[
        str, typer.Option(help="BERTScore's model: a folder or a hub id in the cache.")
    ] = MetricSettings.bertscore_model
    bertscore_layer: Annotated[
        int | None, typer.Option(min=0, help="The hidden layer that BERTScore compares.")
    ] = None
    bertscore_rescale: Annotated[
        bool,
        typer.Option("--bertscore-rescale", help="Subtract the baseline of unrelated sentences."),
    ] = False
    bertscore_baseline: Annotated[
        Path | None, typer.Option(help="The bert_score package's table of baselines.")
    ] = None
    green: Annotated[str, typer.Option(help="GREEN's LLM: a folder or a hub id in the cache.")] = (
        MetricSettings.green
    )
    green_prompt: Annotated[
        Path | None,
        typer.Option(help="GREEN's wording; else its folder's green_prompt.txt."),
    ] = None
    ratescore_ner: Annotated[
        str, typer.Option(help="RaTEScore's finder of entities: a folder or a hub id in the cache.")
    ] = MetricSettings.ratescore_ner
    ratescore_encoder: Annotated[
        str, typer.Option(help="RaTEScore's encoder: a folder or a hub id in the cache.")
    ] = MetricSettings.ratescore_encoder
    srr_bert: Annotated[str, typer.Option(help="SRR-BERT: a folder or a hub id in the cache.")] = (
        MetricSettings.srr_bert
    )
    srr_bert_vocabulary: Annotated[
        Path | None, typer.Option(help="CXR-BERT's vocab.txt or its folder, for SRR-BERT.")
    ] = None
    radfact_llm: Annotated[
        str | None, typer.Option(help="RadFact's judge: a folder or a hub id in the cache.")
    ] = None
    radfact_endpoint: Annotated[
        str | None,
        typer.Option(help="An API of OpenAI's form that judges for RadFact; reports go to it."),
    ] = None
    radfact_model: Annotated[
        str | None, typer.Option(help="The judge's name at --radfact-endpoint.")
    ] = None
    given: frozenset[str] = frozenset()

    def as_published(
        self, preset: PresetName | None, tell: Callable[[str], None]
    ) -> "tuple[Scoring, AppliedPreset | None]":
        """These options with what a preset sets; what the command line names stays, and is told.

        Raises:
            ConfigError: the preset's file is wrong.
        """
        if preset is None:
            return self, None
        given = {name: getattr(self, name) for name in self.given}
        if "metrics" in given:
            given["metrics"] = ", ".join(names(self.metrics))
        published = apply_preset(preset, given)
        for warning in published.warnings(_option):
            tell(f"warning: {warning}")
        return replace(self, **published.chosen()), published

    def testing(self, seed: int) -> dict[str, Any]:
        """What decides intervals and tests, by the names that the functions of evaluation have."""
        return {"primary": self.primary, "resamples": self.resamples, "seed": seed}

    def scorer(self, device: str = "auto") -> Scorer:
        """Of these metrics.

        Raises:
            ConfigError: there is no such metric, value or device.
        """
        from llava_rad.devices import pick_device
        from llava_rad.evaluation.primary import metric_of

        metric_of(self.primary)  # a wrong one is refused before hours of work
        settings = MetricSettings(
            rouge_stemmer=self.rouge_stemmer,
            chexbert=self.chexbert,
            chexbert_vocabulary=self.chexbert_vocabulary,
            chexbert_attention_heads=self.chexbert_attention_heads,
            chexbert_precision=self.chexbert_precision,
            chexbert_windows=self.chexbert_windows,
            radgraph=self.radgraph,
            radgraph_model=self.radgraph_model,
            radgraph_casing=self.radgraph_casing,
            bertscore_model=self.bertscore_model,
            bertscore_layer=self.bertscore_layer,
            bertscore_rescale=self.bertscore_rescale,
            bertscore_baseline=self.bertscore_baseline,
            green=self.green,
            green_prompt=self.green_prompt,
            ratescore_ner=self.ratescore_ner,
            ratescore_encoder=self.ratescore_encoder,
            srr_bert=self.srr_bert,
            srr_bert_vocabulary=self.srr_bert_vocabulary,
            radfact_llm=self.radfact_llm,
            radfact_endpoint=self.radfact_endpoint,
            radfact_model=self.radfact_model,
            cache=self.radgraph_cache,
            device=None if device == "auto" else str(pick_device(device)),
        )
        return Scorer(names(self.metrics), settings, require=self.require)


def published_section(
    applied: AppliedPreset | None, section: SectionName | None, tell: Callable[[str], None]
) -> tuple[SectionName | None, AppliedPreset | None]:
    """The section to compare with, and the preset as it is used: a section that is named wins."""
    if applied is None:
        return section, None
    section, used = applied.in_section(section)
    for warning in used.warnings(_option)[len(applied.overridden) :]:
        tell(f"warning: {warning}")
    return section, used


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
