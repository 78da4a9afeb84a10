"""Say whether a model's findings depend on the image.

    python eval/image_control.py --model mini --manifest nih.jsonl --split test -o runs/control

Each study that has findings is reported on with its own pictures, with another patient's, with
noise and with a blank one; the text context stays the same. What each metric gains from the right
pictures is printed with its paired bootstrap interval, beside the share of texts that stay the
same, and a verdict. It rests on one value, --primary, and its gain over another patient's pictures:
to tell an X-ray from noise is not to read it. The other values are exploratory. Resamples draw
patients with all their studies.

The output folder gets image_control.json, image_control.jsonl (all four texts, a study a line),
image_control.md (a section for the model card), and the reports themselves: reports.jsonl, which
eval/run.py shares, and control_reports. The same command resumes a stopped run.
`torchrun --nproc_per_node N eval/image_control.py ...` shares the studies.

The tables go to standard output, progress and warnings to standard error. The exit code is 0
whatever the verdict; if some studies fail, the others are compared.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

from pathlib import Path
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
    Section,
    Seed,
    Split,
    how_written,
)
from llava_rad.cli.scoring import Scoring
from llava_rad.ending import GOES_ON, program_ending
from llava_rad.evaluation import control_table
from llava_rad.evaluation.results import CONTROL, REPORTS
from llava_rad.outputs import own_shared_results, write_result
from llava_rad.wording import failed_of


def main(
    model: Model,
    manifest: Manifest,
    output: OutputFolder,
    loading: Loading,
    decoding: Decoding,
    scoring: Scoring,
    split: Split = "test",
    section: Section = None,
    card: Annotated[
        bool, typer.Option("--card", help="Put the result into the card in the model's folder.")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Parse, generate, score, print."""
    with program_ending(GOES_ON):
        # Heavy imports wait until the options are read.
        from llava_rad.evaluation.controls import judge_controls, write_controls
        from llava_rad.evaluation.split_reports import open_split
        from llava_rad.processes import process_state

        state = process_state()
        names = {**REPORTS, **CONTROL}
        scorer = scoring.scorer(loading.device)
        with own_shared_results(
            output, names, [manifest], what="image control", overwrite=overwrite
        ):
            studies = open_split(
                model,
                manifest,
                output,
                split=split,
                section=section,
                **how_written(loading, decoding, seed),
            )
            if studies.selection.left_out:
                say_once(f"studies: {studies.selection.summary()}")
            right = studies.write("reports.jsonl", progress=say_once)
            wrong = write_controls(studies, seed=seed, progress=say_once)
            state.destroy_process_group()
            if not state.is_main_process:
                return
            result = judge_controls(
                studies,
                right,
                wrong,
                scorer,
                **scoring.testing(seed),
                progress=lambda step: say_once(f"computing {step}"),
            )
            if card:
                write_card(model, output / "image_control.md")
    print(control_table(result))
    for name, reason in result.left_out.items():
        say_once(f"not computed: {name}: {reason}")
    say_once(
        f"written to {output}: image_control.json, image_control.jsonl, image_control.md, "
        "reports.jsonl, control_reports"
    )
    failures = {f.study_id: f for reports in (right, *wrong.values()) for f in reports.failures}
    for failure in failures.values():
        say_once(f"error: {failure.error}")
    if failures:
        count = len(studies.studies)
        say_once(failed_of(len(failures), count, "study", "studies", "compared"))
        raise typer.Exit(1)


def write_card(model: str, section: Path) -> None:
    """Replace the card's section on the image by this one."""
    from llava_rad.model.card import put_section
    from llava_rad.model.loading import model_folder

    file = model_folder(model) / "README.md"
    write_result(file, put_section(file.read_text("utf-8"), section.read_text("utf-8")))


app = program_app(main, __doc__, "eval/image_control.py")

if __name__ == "__main__":
    app()
