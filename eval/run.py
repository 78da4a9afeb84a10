"""Judge a model on a split: write its reports, score them, and look whether it looks.

    python eval/run.py --model MODEL --manifest MANIFEST --split test -o OUT

Reports are written for the split's studies that have findings, or the section that --section names
or the model was trained to write; the others are left out and counted. OUT gets ``reports.jsonl``
(the reports as they are written), ``predictions.jsonl`` (beside the true texts, as
``eval/findings.py`` reads them), ``metrics.json``, ``per_sample.jsonl`` and ``report.html``.
``--image-control`` adds what ``eval/image_control.py`` finds. If the manifest has training studies,
the best single report is chosen among theirs.

A run that was cut off goes on where it stopped. ``torchrun --nproc_per_node N eval/run.py ...``
shares the studies among processes; the files are those of a single process.

The tables go to standard output, progress and warnings to standard error. Exit codes: 0 done, 1 an
error in data or weights, or some studies failed (the others are scored), 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_rad.ending import GOES_ON, program_ending
from llava_rad.evaluation import (
    control_table,
    evaluate_predictions,
    evaluation_table,
    read_predictions,
    write_evaluation,
)
from llava_rad.evaluation.primary import PRIMARY, metric_of
from llava_rad.metrics import DEFAULT_METRICS, METRICS, MetricSettings, Scorer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__, no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="mini, a folder, or a hub id.")],
    manifest: Annotated[Path, typer.Option(help="Studies: .jsonl or .parquet.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Whose studies; all for a manifest without splits."),
    ] = "test",
    section: Annotated[
        Literal["findings", "impression", "findings_and_impression"] | None,
        typer.Option(help="To compare with; default: what the model was trained to write."),
    ] = None,
    image_control: Annotated[
        bool, typer.Option("--image-control", help="Also write reports on wrong images.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Studies decoded together.")] = 8,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest report, in tokens.")] = 256,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; auto: bfloat16 on a GPU, float32 on a CPU."),
    ] = "auto",
    llm: Annotated[str | None, typer.Option(help="Another place of the model's base LLM.")] = None,
    metrics: Annotated[
        str, typer.Option(help=f"Names with commas between, out of: {', '.join(METRICS)}.")
    ] = ",".join(DEFAULT_METRICS),
    primary: Annotated[
        str, typer.Option(help="The one value that counts, declared before: METRIC/VALUE.")
    ] = PRIMARY,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where a metric cannot be computed.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of bootstrap, baselines and wrong images.")] = 0,
    chexbert: Annotated[
        str | None, typer.Option(help="chexbert.pth, its folder or a hub repository.")
    ] = None,
    chexbert_vocabulary: Annotated[
        Path | None, typer.Option(help="BERT's uncased vocab.txt or its folder.")
    ] = None,
    radgraph: Annotated[
        str | None, typer.Option(help="Model folder, archive or a hub repository.")
    ] = None,
    radgraph_model: Annotated[str, typer.Option(help="radgraph or radgraph-xl.")] = "radgraph-xl",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
) -> None:
    """Parse, generate, score, write, print."""
    # bitsandbytes mentions optional kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Heavy imports wait until the options are read.
    from llava_rad.evaluation.controls import judge_controls, write_controls
    from llava_rad.evaluation.results import CONTROL, GENERATED, SCORES
    from llava_rad.evaluation.split_reports import open_split
    from llava_rad.outputs import own_shared_results
    from llava_rad.processes import process_state
    from llava_rad.reports.generate import GenerationSettings

    state = process_state()
    main_process = state.is_main_process
    names = {**GENERATED, **SCORES, **(CONTROL if image_control else {})}
    inputs = [manifest]
    with (
        program_ending(GOES_ON),
        own_shared_results(output, names, inputs, what="evaluation", overwrite=overwrite),
    ):
        metric_of(primary)  # a wrong one is refused before hours of writing
        scorer = Scorer(
            [name.strip() for name in metrics.split(",") if name.strip()],
            MetricSettings(
                chexbert=chexbert,
                chexbert_vocabulary=chexbert_vocabulary,
                radgraph=radgraph,
                radgraph_model=radgraph_model,
            ),
            require=require,
        )
        studies = open_split(
            model,
            manifest,
            output,
            split=split,
            section=section,
            settings=GenerationSettings(max_new_tokens=max_new_tokens, num_beams=num_beams),
            batch_size=batch_size,
            precision=dtype,
            base_llm=llm,
        )
        if main_process and studies.selection.left_out:
            _say(f"studies: {studies.selection.summary()}")
        reports = studies.write("reports.jsonl", progress=_say)
        wrong = write_controls(studies, seed=seed, progress=_say) if image_control else None
        state.destroy_process_group()
        if not main_process:
            return
        studies.write_predictions(output / "predictions.jsonl", reports)
        predictions = read_predictions(output / "predictions.jsonl")
        evaluation = evaluate_predictions(
            replace(predictions, notes=(*predictions.notes, *studies.notes(reports))),
            scorer,
            section=studies.section,
            primary=primary,
            training=studies.training or None,
            resamples=resamples,
            seed=seed,
            progress=lambda step: _say(f"computing {step}"),
        )
        write_evaluation(evaluation, output, facts={"generation": studies.facts(reports)})
        print(evaluation_table(evaluation))
        failures = {failure.study_id: failure for failure in reports.failures}
        if wrong is not None:
            control = judge_controls(
                studies,
                reports,
                wrong,
                scorer,
                resamples=resamples,
                primary=primary,
                seed=seed,
            )
            print(f"\n{control_table(control)}")
            failures |= {f.study_id: f for written in wrong.values() for f in written.failures}
    for warning in evaluation.warnings:
        _say(f"warning: {warning}")
    for name, reason in evaluation.scores.left_out.items():
        _say(f"not computed: {name}: {reason}")
    _say(f"written to {output}: predictions.jsonl, metrics.json, per_sample.jsonl, report.html")
    for failure in failures.values():
        _say(f"error: {failure.error}")
    if failures:
        _say(f"{len(failures)} of {len(studies.studies)} studies failed, the others are scored")
        raise typer.Exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    app()
