"""Judge a model on a split: write its reports, score them, and look whether it looks.

    python eval/run.py --model mini --manifest nih.jsonl --split test -o runs/evaluation

Reports are written for the split's studies that have findings, or the section that --section names
or the model was trained to write; the others are left out and counted. The output folder gets
reports.jsonl (the reports as they are written), predictions.jsonl (beside the true texts, as
eval/findings.py reads them), metrics.json, per_sample.jsonl, errors.json, errors.csv (what was
found, missed and invented, in whom) and report.html. --preset computes and prints what a published
table does; of ReXrank's it adds rexrank.json, the file to submit. --image-control adds what
eval/image_control.py finds. If the manifest has training studies, the best single report is chosen
among theirs.

The same command resumes a stopped run. `torchrun --nproc_per_node N eval/run.py ...` shares the
studies among processes; the files are those of a single process.

The tables go to standard output, progress and warnings to standard error. If some studies fail, the
others are scored.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

from dataclasses import replace
from typing import Annotated

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import (
    Decoding,
    Loading,
    Manifest,
    Model,
    OutputFolder,
    Overwrite,
    Preset,
    Section,
    Seed,
    Split,
    how_written,
)
from llava_rad.cli.scoring import Scoring, published_section
from llava_rad.ending import GOES_ON, program_ending
from llava_rad.evaluation import (
    control_table,
    evaluate_predictions,
    evaluation_table,
    read_predictions,
    write_evaluation,
    write_page,
)
from llava_rad.evaluation.results import CONTROL, GENERATED, SCORES, SUBMISSION
from llava_rad.evaluation.rexrank import write_submission
from llava_rad.outputs import own_shared_results
from llava_rad.wording import failed_of


def main(
    model: Model,
    manifest: Manifest,
    output: OutputFolder,
    loading: Loading,
    decoding: Decoding,
    scoring: Scoring,
    preset: Preset = None,
    split: Split = "test",
    section: Section = None,
    image_control: Annotated[
        bool, typer.Option("--image-control", help="Also write reports on wrong images.")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Parse, generate, score, write, print."""
    with program_ending(GOES_ON):
        # Heavy imports wait until the options are read.
        from llava_rad.evaluation.controls import judge_controls, write_controls
        from llava_rad.evaluation.split_reports import open_split
        from llava_rad.processes import process_state

        state = process_state()
        scoring, published = scoring.as_published(preset, say_once)
        section, published = published_section(published, section, say_once)
        submitted = published is not None and published.name == "rexrank"
        names = {**GENERATED, **SCORES, **(CONTROL if image_control else {})}
        names |= SUBMISSION if submitted else {}
        scorer = scoring.scorer(loading.device)
        how = scoring.testing(seed)
        with own_shared_results(output, names, [manifest], what="evaluation", overwrite=overwrite):
            studies = open_split(
                model,
                manifest,
                output,
                split=split,
                section=section,
                headed=published is not None and published.preset.headed,
                **how_written(loading, decoding, seed),
            )
            if studies.selection.left_out:
                say_once(f"studies: {studies.selection.summary()}")
            reports = studies.write("reports.jsonl", progress=say_once)
            wrong = write_controls(studies, seed=seed, progress=say_once) if image_control else None
            state.destroy_process_group()
            if not state.is_main_process:
                return
            studies.write_predictions(output / "predictions.jsonl", reports)
            if submitted:
                write_submission(output / "rexrank.json", studies.studies, reports.texts)
            predictions = read_predictions(output / "predictions.jsonl")
            evaluation = evaluate_predictions(
                replace(predictions, notes=(*predictions.notes, *studies.notes(reports))),
                scorer,
                section=studies.section,
                training=studies.training or None,
                training_boxes=studies.training_boxes,
                **how,
                preset=published,
                progress=lambda step: say_once(f"computing {step}"),
            )
            generation = studies.facts(reports)
            write_evaluation(evaluation, output, facts={"generation": generation})
            print(evaluation_table(evaluation))
            failures = {failure.study_id: failure for failure in reports.failures}
            if wrong is not None:
                control = judge_controls(studies, reports, wrong, scorer, **how)
                write_page(evaluation, output, generation=generation)  # now with the verdict
                print(f"\n{control_table(control)}")
                failures |= {f.study_id: f for written in wrong.values() for f in written.failures}
    for warning in evaluation.warnings:
        say_once(f"warning: {warning}")
    for name, reason in evaluation.scores.left_out.items():
        say_once(f"not computed: {name}: {reason}")
    files = ", ".join(["predictions.jsonl", *SCORES])
    say_once(f"written to {output}: {files}" + (", rexrank.json to submit" if submitted else ""))
    for failure in failures.values():
        say_once(f"error: {failure.error}")
    if failures:
        count = len(studies.studies)
        say_once(failed_of(len(failures), count, "study", "studies", "scored"))
        raise typer.Exit(1)


app = program_app(main, __doc__, "eval/run.py")

if __name__ == "__main__":
    app()
