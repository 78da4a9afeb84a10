"""Score a file of generated findings: a table, JSON, and one self-contained page.

    python eval/findings.py predictions.jsonl -o runs/scores
    python eval/findings.py theirs.csv --prediction generated --reference report -o runs/scores

The file is JSON lines, CSV, TSV or Parquet, with the columns id, prediction and reference under
these or other names, and where known labels (CheXpert observations of the study, 1, 0, -1; in a
table one column each), image (a path, for the page), patient_id, language and section. The output
folder gets metrics.json, per_sample.jsonl, errors.json and errors.csv (what was found, missed and
invented, in whom: columns sex, age, view and source make subgroups) and report.html.

Intervals resample patients with all their studies (studies, where the file names no patients). One
value counts, --primary, and stands first; all others are exploratory.

The table goes to standard output, progress and warnings to standard error. A metric whose weights
are not on this machine is named with the command that fetches them, and the others are computed;
--require makes that an error.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import (
    ColumnNames,
    Device,
    OutputFolder,
    Overwrite,
    Preset,
    Section,
    Seed,
)
from llava_rad.cli.scoring import Scoring, published_section
from llava_rad.ending import program_ending
from llava_rad.errors import MetricError
from llava_rad.evaluation import (
    evaluate_predictions,
    evaluation_table,
    read_predictions,
    read_reports,
    write_evaluation,
)
from llava_rad.evaluation.results import SCORES
from llava_rad.outputs import own_results


def main(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The predictions: .jsonl, .json, .csv, .tsv or .parquet."
        ),
    ],
    output: OutputFolder,
    columns: ColumnNames,
    scoring: Scoring,
    preset: Preset = None,
    section: Section = None,
    training_reports: Annotated[
        Path | None,
        typer.Option(
            help="A file of the same kind and columns (id, reference) to choose the best single "
            "report from."
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="An .npz with 'ids' and 'features' [n, dim] of the studies and of the training "
            "reports; it adds the nearest training report."
        ),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=0, help="How many worst and best pairs the page shows.")
    ] = 20,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Parse, score, write, print."""
    with program_ending("nothing was written"):
        scoring, published = scoring.as_published(preset, say_once)
        section, published = published_section(published, section, say_once)
        scorer = scoring.scorer(device)
        read = [path for path in (predictions, training_reports, features) if path is not None]
        with own_results(output, SCORES, read, what="scoring", overwrite=overwrite):
            names = columns.columns()
            evaluation = evaluate_predictions(
                read_predictions(predictions, names),
                scorer,
                section=section,
                training=read_reports(training_reports, names) if training_reports else None,
                features=_read_features(features) if features else None,
                **scoring.testing(seed),
                preset=published,
                progress=lambda step: say_once(f"computing {step}"),
            )
            write_evaluation(evaluation, output, cases=cases)
    print(evaluation_table(evaluation))
    for warning in evaluation.warnings:
        say_once(f"warning: {warning}")
    for name, reason in evaluation.scores.left_out.items():
        say_once(f"not computed: {name}: {reason}")
    say_once(f"written to {output}: {', '.join(SCORES)}")


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


app = program_app(main, __doc__, "eval/findings.py")

if __name__ == "__main__":
    app()
