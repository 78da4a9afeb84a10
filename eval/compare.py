"""Say whether one model's findings are better than another's, on the same studies.

    python eval/compare.py baseline/predictions.jsonl mine/predictions.jsonl
    python eval/compare.py a.csv b.csv --prediction generated --format json -o differences.json

Each file is as for eval/findings.py. Pairs are matched by id, not by line; ids that are not in
every file are named and left out, and a reference that differs between files is an error. Every
other file is compared with the first: the difference (file minus the first), its 95 % interval by
paired bootstrap, and the p-values of the bootstrap and of approximate randomisation. Both resample
and swap patients with all their studies (studies, where the files name no patients).

One value counts, --primary: it is tested alone and stands first. All others are exploratory, and
their p-values of randomisation are corrected for their number (Holm) in the last column.

--errors FOLDER adds which observations are found, missed or invented more or less often, and in
whom (sex, age, view, normal or abnormal reference, source): comparison.html, one self-contained
page with studies to look at, errors.json and errors.csv.

The table goes to standard output, progress to standard error.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import ColumnNames, Device, Numbers, Preset, Seed
from llava_rad.cli.scoring import Scoring
from llava_rad.ending import program_ending
from llava_rad.errors import ConfigError, DataError
from llava_rad.evaluation import Prediction, Predictions, read_predictions
from llava_rad.evaluation.error_comparison import compare_errors
from llava_rad.evaluation.error_output import write_changes
from llava_rad.evaluation.labels import key_label, value_label
from llava_rad.evaluation.observation_errors import NO_LABELS
from llava_rad.evaluation.primary import (
    PairedTest,
    metric_of,
    paired_tests,
    require_computed,
    shown_values,
    with_primary,
)
from llava_rad.evaluation.results import COMPARISON
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import Scorer, Scores
from llava_rad.metrics.language import is_english
from llava_rad.outputs import own_results
from llava_rad.statistics import Units
from llava_rad.wording import counted, verb


def main(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Two or more files of predictions.")
    ],
    columns: ColumnNames,
    scoring: Scoring,
    numbers: Numbers,
    preset: Preset = None,
    errors: Annotated[
        Path | None,
        typer.Option(help="A folder for comparison.html: errors by subgroup, as files and a page."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Parse, score, compare, print."""
    with program_ending(), contextlib.ExitStack() as stack:
        if len(files) < 2:
            raise ConfigError(
                "there is nothing to compare with", where=files[0], remedy="Give at least two files"
            )
        twice = [path for place, path in enumerate(files[1:]) if path in files[1:][:place]]
        if twice:
            raise ConfigError(
                "it is given twice", where=twice[0], remedy="Compare each file with the first once"
            )
        numbers.claim(("first", "pairs", "files"), files)
        if errors is not None:
            again = numbers.overwrite
            stack.enter_context(
                own_results(errors, COMPARISON, files, what="comparison", overwrite=again)
            )
        scoring, published = scoring.as_published(preset, say_once)
        primary = scoring.primary
        asked = scoring.scorer(device)
        scorer = with_primary(asked, primary)
        read = [read_predictions(path, columns.columns()) for path in files]
        for file in read:
            section = None if published is None else published.preset.section
            for warning in (*file.notes, *file.other_sections(section)):
                say_once(f"warning: {file.path}: {warning}")
        if published is not None:
            read = [published.prepare(predictions) for predictions in read]
        ids = _shared_ids(read)
        patients = _patients(read, ids)
        units = Units.of(patients) if published is None else published.units(patients)
        languages = sorted({language for file in read for language in file.languages})
        scores = [_score(scorer, predictions, ids, languages) for predictions in read]
        by_preset = published is not None and primary == published.preset.primary
        require_computed(scores[0], asked.metrics, primary, by_preset=by_preset)
        shown = shown_values(scores[0].results, asked.metrics, primary)
        how = scoring.testing(seed)
        results = [
            (path, paired_tests(other.results, scores[0].results, shown, units, **how))
            for path, other in zip(files[1:], scores[1:], strict=True)
        ]
        head = f"{counted(len(ids), 'pair')} of {units}; differences against {files[0]}\n"
        if metric_of(primary) in shown:
            head += f"primary metric, declared before: {key_label(primary)}"
        else:
            head += f"primary metric: {key_label(primary)} was not computed, so all are exploratory"
        tables = [
            f"\n{path}\n{_table(tests, scores[0], mine)}"
            for (path, tests), mine in zip(results, scores[1:], strict=True)
        ]
        facts: dict[str, Any] = {"first": files[0].name, "pairs": len(ids), "unit": units.name}
        if published is not None:
            facts["preset"] = published.facts()
            head = f"convention of {published.preset.title}; {head}"
        content = {**facts, "units": units.count, **how, "files": _differences(results)}
        if errors is not None:
            rows = [_rows(file, ids) for file in read]
            mentions = _mentions(scorer, rows) if is_english(languages) else None
            of_files = [of_file.results for of_file in scores]
            by_patient = Units.of(patients)  # whatever a preset resamples
            changes = compare_errors(
                [*map(str, files)], rows, of_files, mentions, by_patient, primary
            )
            if changes:
                write_changes(str(files[0]), rows[0], changes, errors)
                say_once(f"written to {errors}: {', '.join(COMPARISON)}")
            else:
                say_once(f"warning: {errors}: {NO_LABELS}")
        numbers.put(content, "\n".join([head, *tables]))
    if units.name == "study" and not any(patients):
        say_once(
            "warning: the files name no patients, so studies are resampled, and intervals are too "
            "narrow if patients have several; add a column of patients (--patient)"
        )
    for name, reason in scores[0].left_out.items():
        say_once(f"not computed: {name}: {reason}")


def _shared_ids(files: Sequence[Predictions]) -> list[str]:
    """Ids that are in every file, in the first one's order."""
    held = [{row.id for row in file.rows} for file in files]
    shared = set.intersection(*held)
    for file, ids in zip(files, held, strict=True):
        alone = [row.id for row in file.rows if row.id in ids - shared]
        if alone:
            named = ", ".join(alone[:5]) + (" ..." if len(alone) > 5 else "")
            be = verb(len(alone))
            say_once(
                f"warning: {file.path}: {counted(len(alone), 'id')} {be} not in every file and "
                f"{be} left out: {named}"
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
                f"{counted(len(differing), 'reference')} "
                f"{verb(len(differing), 'differs', 'differ')} from those of {files[0].path}: "
                f"{', '.join(differing[:5])}",
                where=file.path,
                remedy="Compare predictions against the same references",
                kind="reference_mismatch",
            )
    return [row.id for row in files[0].rows if row.id in shared]


def _score(
    scorer: Scorer, predictions: Predictions, ids: Sequence[str], languages: Sequence[str]
) -> Scores:
    say_once(f"scoring {predictions.path}")
    chosen = _rows(predictions, ids)
    return scorer(
        [row.prediction for row in chosen],
        [row.reference for row in chosen],
        languages=languages,
    )


def _rows(predictions: Predictions, ids: Sequence[str]) -> list[Prediction]:
    rows = {row.id: row for row in predictions.rows}
    return [rows[id] for id in ids]


def _mentions(scorer: Scorer, files: Sequence[Sequence[Prediction]]) -> NDArray[np.int64]:
    """What chexpert-rules find in the references and in each file [1 + files, studies, 14]."""
    texts = [[row.reference for row in files[0]]]
    texts += [[row.prediction for row in rows] for rows in files]
    return np.stack([scorer.label_reports(some) for some in texts])


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


def _differences(results: Sequence[tuple[Path, dict[str, PairedTest]]]) -> dict[str, Any]:
    return {
        str(file): {
            key: {**asdict(test.difference), "role": test.role, "p": test.p}
            for key, test in tests.items()
        }
        for file, tests in results
    }


app = program_app(main, __doc__, "eval/compare.py")

if __name__ == "__main__":
    app()
