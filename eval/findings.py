"""Score a file of generated findings: a table, JSON, and one self-contained page.

    python eval/findings.py PREDICTIONS.jsonl -o OUT

PREDICTIONS.jsonl has one object a line: ``id``, ``prediction``, ``reference``, and where known
``labels`` (CheXpert observations of the study, 1, 0, -1), ``image`` (a path, for the page),
``patient_id`` and ``language``. OUT gets ``metrics.json``, ``per_sample.jsonl`` and
``report.html``.

Intervals resample patients with all their studies (studies, where the file names no patients). One
value counts, --primary, and stands first; all others are exploratory.

The table goes to standard output, progress and warnings to standard error. A metric whose weights
are not on this machine is named with the command that fetches them, and the others are computed;
``--require`` makes that an error. Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from llava_rad.ending import program_ending
from llava_rad.errors import MetricError
from llava_rad.evaluation import (
    evaluate_predictions,
    evaluation_table,
    read_predictions,
    read_reports,
    write_evaluation,
)
from llava_rad.evaluation.primary import PRIMARY
from llava_rad.evaluation.results import SCORES
from llava_rad.metrics import DEFAULT_METRICS, METRICS, MetricSettings, Scorer
from llava_rad.metrics.radgraph import CASINGS
from llava_rad.outputs import own_results

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__, no_args_is_help=True)
def main(
    predictions: Annotated[Path, typer.Argument(help="JSON lines to score.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    metrics: Annotated[
        str, typer.Option(help=f"Names with commas between, out of: {', '.join(METRICS)}.")
    ] = ",".join(DEFAULT_METRICS),
    primary: Annotated[
        str, typer.Option(help="The one value that counts, declared before: METRIC/VALUE.")
    ] = PRIMARY,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where a metric cannot be computed.")
    ] = False,
    section: Annotated[
        Literal["findings", "impression", "findings_and_impression"] | None,
        typer.Option(help="What was generated; default: what the file says, or findings."),
    ] = None,
    training_reports: Annotated[
        Path | None,
        typer.Option(help="JSON lines (id, reference) to choose the single report from."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help=".npz with 'ids' and 'features' [n, dim] of the studies and of the training "
            "reports: adds the nearest training report."
        ),
    ] = None,
    cases: Annotated[int, typer.Option(min=0, help="Worst and best pairs on the page.")] = 20,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of bootstrap and baselines.")] = 0,
    rouge_stemmer: Annotated[
        bool, typer.Option("--rouge-stemmer", help="ROUGE on Porter stems.")
    ] = False,
    chexbert: Annotated[
        str | None, typer.Option(help="chexbert.pth, its folder or a hub repository.")
    ] = None,
    chexbert_vocabulary: Annotated[
        Path | None, typer.Option(help="BERT's uncased vocab.txt or its folder.")
    ] = None,
    chexbert_attention_heads: Annotated[
        int | None, typer.Option(help="For a checkpoint whose heads do not have 64 dimensions.")
    ] = None,
    chexbert_precision: Annotated[
        str, typer.Option(help="float32, or the faster and almost equal bfloat16.")
    ] = "float32",
    chexbert_windows: Annotated[
        bool, typer.Option("--chexbert-windows", help="Label long reports in windows.")
    ] = False,
    radgraph: Annotated[
        str | None, typer.Option(help="Model folder, archive or a hub repository.")
    ] = None,
    radgraph_model: Annotated[str, typer.Option(help="radgraph or radgraph-xl.")] = "radgraph-xl",
    radgraph_casing: Annotated[
        str, typer.Option(help=f"How entities are compared: {' or '.join(CASINGS)}.")
    ] = CASINGS[0],
    bertscore_model: Annotated[
        str, typer.Option(help="Folder or cached hub id.")
    ] = MetricSettings.bertscore_model,
    bertscore_layer: Annotated[int | None, typer.Option(help="Hidden layer to compare.")] = None,
    bertscore_rescale: Annotated[
        bool, typer.Option("--bertscore-rescale", help="Subtract the baseline.")
    ] = False,
    bertscore_baseline: Annotated[
        Path | None, typer.Option(help="bert_score's table of baselines for the model.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for RadGraph annotations.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Parse, score, write, print."""
    settings = MetricSettings(
        rouge_stemmer=rouge_stemmer,
        chexbert=chexbert,
        chexbert_vocabulary=chexbert_vocabulary,
        chexbert_attention_heads=chexbert_attention_heads,
        chexbert_precision=chexbert_precision,
        chexbert_windows=chexbert_windows,
        radgraph=radgraph,
        radgraph_model=radgraph_model,
        radgraph_casing=radgraph_casing,
        bertscore_model=bertscore_model,
        bertscore_layer=bertscore_layer,
        bertscore_rescale=bertscore_rescale,
        bertscore_baseline=bertscore_baseline,
        cache=cache,
        device=device,
    )
    read = [path for path in (predictions, training_reports, features) if path is not None]
    with (
        program_ending("nothing was written"),
        own_results(out, SCORES, read, what="scoring", overwrite=overwrite),
    ):
        names = [name.strip() for name in metrics.split(",") if name.strip()]
        scorer = Scorer(names, settings, require=require)
        evaluation = evaluate_predictions(
            read_predictions(predictions),
            scorer,
            section=section,
            primary=primary,
            training=read_reports(training_reports) if training_reports else None,
            features=_read_features(features) if features else None,
            resamples=resamples,
            seed=seed,
            progress=lambda step: print(f"computing {step}", file=sys.stderr),
        )
        write_evaluation(evaluation, out, cases=cases)
    print(evaluation_table(evaluation))
    for warning in evaluation.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name, reason in evaluation.scores.left_out.items():
        print(f"not computed: {name}: {reason}", file=sys.stderr)
    print(f"written to {out}: metrics.json, per_sample.jsonl, report.html", file=sys.stderr)


def _read_features(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, rows = file["ids"], file["features"]
    except (OSError, KeyError, ValueError) as error:
        raise MetricError(
            "not an .npz file with 'ids' and 'features'",
            where=path,
            remedy="Save both with numpy.savez",
            kind="no_features",
        ) from error
    if rows.ndim != 2 or len(ids) != len(rows):
        raise MetricError(
            f"{len(ids)} ids but features of shape {rows.shape}",
            where=path,
            remedy="Save 'features' as [n, dim], one row for each of the 'ids'",
            kind="no_features",
        )
    return {str(id): row for id, row in zip(ids, rows, strict=True)}


if __name__ == "__main__":
    app()
