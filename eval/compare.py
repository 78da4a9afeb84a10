"""Say whether one model's findings are better than another's, on the same studies.

    python eval/compare.py A.jsonl B.jsonl [C.jsonl ...]

Each file is as for ``eval/findings.py``. Pairs are matched by id, not by line; ids that are not in
every file are named and left out, and a reference that differs between files is an error. Every
other file is compared with the first: the difference (file minus the first), its 95 % interval by
paired bootstrap, and the p-values of the bootstrap and of approximate randomisation. Both resample
and swap patients with all their studies (studies, where the files name no patients).

One value counts, --primary: it is tested alone and stands first. All others are exploratory, and
their p-values of randomisation are corrected for their number (Holm) in the last column.

The table goes to standard output (``--json`` also writes it to a file), progress to standard error.
Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.ending import program_ending
from llava_rad.errors import DataError
from llava_rad.evaluation import Predictions, read_predictions
from llava_rad.evaluation.page import key_label, value_label
from llava_rad.evaluation.primary import (
    PRIMARY,
    PairedTest,
    metric_of,
    paired_tests,
    require_computed,
    shown_values,
    with_primary,
)
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import DEFAULT_METRICS, METRICS, MetricSettings, Scorer, Scores
from llava_rad.outputs import claim_json, write_result
from llava_rad.statistics import Units

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command(help=__doc__, no_args_is_help=True)
def main(
    files: Annotated[list[Path], typer.Argument(help="Two or more files of predictions.")],
    metrics: Annotated[
        str, typer.Option(help=f"Names with commas between, out of: {', '.join(METRICS)}.")
    ] = ",".join(DEFAULT_METRICS),
    primary: Annotated[
        str, typer.Option(help="The one value that counts, declared before: METRIC/VALUE.")
    ] = PRIMARY,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the differences here.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples and swaps.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of resamples and swaps.")] = 0,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where a metric cannot be computed.")
    ] = False,
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
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Parse, score, compare, print."""
    if len(files) < 2:
        raise typer.BadParameter("give at least two files")
    settings = MetricSettings(
        chexbert=chexbert,
        chexbert_vocabulary=chexbert_vocabulary,
        radgraph=radgraph,
        radgraph_model=radgraph_model,
        device=device,
    )
    with program_ending():
        claim_json(json_file, ("first", "pairs", "files"), files, overwrite=overwrite)
        names = [name.strip() for name in metrics.split(",") if name.strip()]
        asked = Scorer(names, settings, require=require)
        scorer = with_primary(asked, primary)
        read = [read_predictions(path) for path in files]
        ids = _shared_ids(read)
        units = Units.of(_patients(read, ids))
        languages = sorted({language for file in read for language in file.languages})
        scores = [_score(scorer, predictions, ids, languages) for predictions in read]
        require_computed(scores[0], asked.metrics, primary)
        shown = shown_values(scores[0].results, asked.metrics, primary)
        how = {"primary": primary, "resamples": resamples, "seed": seed}
        results = [
            (path, paired_tests(other.results, scores[0].results, shown, units, **how))
            for path, other in zip(files[1:], scores[1:], strict=True)
        ]
        if json_file:
            facts = {"first": files[0].name, "pairs": len(ids), "unit": units.name}
            _write(json_file, {**facts, "units": units.count, **how}, results)
    print(f"{len(ids)} pairs of {units}; differences against {files[0]}")
    if metric_of(primary) in shown:
        print(f"primary metric, declared before: {key_label(primary)}")
    else:
        print(f"primary metric: {key_label(primary)} was not computed, so all are exploratory")
    if units.name == "study":
        print(
            "warning: the files name no patients, so studies are resampled, and intervals are too "
            "narrow if patients have several; add 'patient_id'",
            file=sys.stderr,
        )
    for (path, tests), mine in zip(results, scores[1:], strict=True):
        print(f"\n{path}\n{_table(tests, scores[0], mine)}")
    for name, reason in scores[0].left_out.items():
        print(f"not computed: {name}: {reason}", file=sys.stderr)


def _shared_ids(files: Sequence[Predictions]) -> list[str]:
    """Ids that are in every file, in the first one's order."""
    held = [{row.id for row in file.rows} for file in files]
    shared = set.intersection(*held)
    for file, ids in zip(files, held, strict=True):
        alone = [row.id for row in file.rows if row.id in ids - shared]
        if alone:
            named = ", ".join(alone[:5]) + (" ..." if len(alone) > 5 else "")
            print(
                f"warning: {file.path}: {len(alone)} ids are not in every file and are left out: "
                f"{named}",
                file=sys.stderr,
            )
    if not shared:
        raise DataError(
            "the files have no id in common",
            where=", ".join(str(file.path) for file in files),
            remedy="Give predictions on the same studies",
            kind="no_shared_id",
        )
    references = {row.id: row.reference for row in files[0].rows}
    for file in files[1:]:
        differing = [
            row.id for row in file.rows if row.id in shared and row.reference != references[row.id]
        ]
        if differing:
            raise DataError(
                f"{len(differing)} references differ from those of {files[0].path}: "
                f"{', '.join(differing[:5])}",
                where=file.path,
                remedy="Compare predictions against the same references",
                kind="reference_mismatch",
            )
    return [row.id for row in files[0].rows if row.id in shared]


def _score(
    scorer: Scorer, predictions: Predictions, ids: Sequence[str], languages: Sequence[str]
) -> Scores:
    print(f"scoring {predictions.path}", file=sys.stderr)
    rows = {row.id: row for row in predictions.rows}
    chosen = [rows[id] for id in ids]
    return scorer(
        [row.prediction for row in chosen],
        [row.reference for row in chosen],
        languages=languages,
    )


def _patients(files: Sequence[Predictions], ids: Sequence[str]) -> list[str | None]:
    """The patient of each study, from whichever file names it."""
    patients: dict[str, str] = {}
    for file in files:
        for row in file.rows:
            if row.patient and patients.setdefault(row.id, row.patient) != row.patient:
                raise DataError(
                    f"study {row.id} is of patient '{row.patient}' here and of "
                    f"'{patients[row.id]}' in another file",
                    where=file.path,
                    remedy="Give one study the same patient_id in all files",
                    kind="patient_mismatch",
                )
    return [patients.get(id) for id in ids]


def _table(tests: dict[str, PairedTest], base: Scores, mine: Scores) -> str:
    before, after = base.headlines(), mine.headlines()
    rows = []
    for key, test in tests.items():
        name, value = key.split("/", 1)
        difference, interval = test.difference, test.difference.interval
        rows.append(
            [
                name,
                value_label(value),
                f"{before[key]:.4f}",
                f"{after[key]:.4f}",
                f"{difference.difference:+.4f}",
                f"{interval.low:+.4f} to {interval.high:+.4f}" if interval else "",
                test.role,
                f"{difference.p_bootstrap:.4f}",
                f"{difference.p:.4f}",
                f"{test.p:.4f}",
            ]
        )
    head = ["metric", "value", "first", "this", "difference", "95 % interval"]
    head += ["role", "p bootstrap", "p randomisation", "p corrected"]
    return text_table(head, rows)


def _write(
    path: Path, facts: dict[str, Any], results: Sequence[tuple[Path, dict[str, PairedTest]]]
) -> None:
    content: dict[str, Any] = {
        **facts,
        "files": {
            str(file): {
                key: {**asdict(test.difference), "role": test.role, "p": test.p}
                for key, test in tests.items()
            }
            for file, tests in results
        },
    }
    write_result(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    app()
