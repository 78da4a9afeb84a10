"""Judge an encoder by what its features tell of the patient and the recording.

    python eval/attributes.py --encoder rad-dino --manifest nih.jsonl --columns sex,age,view

A linear layer on the frozen vector predicts each column: numbers (age in years) by regression,
categories (sex, view, age groups of five years) by classification. A column may be any of the
manifest's records, its labels and its extra facts.

The table goes to standard output, progress to standard error. "baseline" is what the same test
gives without looking at the image: the mean of the training images, or their most frequent class.
Several processes: `accelerate launch eval/attributes.py ...` (or torchrun on CPUs).
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import (
    Judging,
    Numbers,
    Pooling,
    Solver,
    Workers,
    names,
)
from llava_rad.ending import program_ending
from llava_rad.evaluation.table import text_table


def main(
    judging: Judging,
    numbers: Numbers,
    columns: Annotated[
        str, typer.Option(help="The columns to predict, with commas between.")
    ] = "sex,age,age_group",
    pooling: Pooling = "cls",
    solver: Solver = "lbfgs",
    seeds: Annotated[int, typer.Option(min=1, help="How many fits of adamw.")] = 5,
    workers: Workers = 0,
    save: Annotated[
        Path | None, typer.Option(help="A folder to keep the fitted layers in.")
    ] = None,
) -> None:
    """Read, encode, fit, test, print."""
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # Heavy imports wait until the options are read.
        from llava_rad.outputs import has_checksums, own_shared_results
        from llava_rad.probing import (
            column_target,
            encoder_facts,
            extract_features,
            run_linear_probe,
            split_vectors,
            to_plain,
        )
        from llava_rad.processes import process_state

        state = process_state()
        # 1. The encoder, the images, and what is recorded of them.
        loaded, examples, inputs = judging.open()
        numbers.claim(("encoder", "results"), inputs)
        targets = [column_target(examples, column) for column in names(columns)]
        probes = {f"{target.name}.safetensors": has_checksums for target in targets}
        overwrite, what = numbers.overwrite, "run of attributes"
        stack.enter_context(
            own_shared_results(save, probes, inputs, what=what, overwrite=overwrite)
        )
        facts = encoder_facts(loaded)
        say_once(f"{loaded.name}: {examples}")

        # 2. One vector an image.
        features = extract_features(
            loaded,
            [e.path for e in examples.all],
            cache=judging.cache,
            workers=workers,
            progress=lambda done, of: say_once(f"encoded {done} of {of}"),
        )
        vectors = split_vectors(features, examples, pooling)

        # 3. A layer for each column.
        records: list[dict[str, Any]] = []
        for target in targets:
            say_once(f"fitting {target.name}")
            result = run_linear_probe(vectors, [target], solver=solver, seeds=seeds)
            records.append(
                {
                    "column": target.name,
                    "kind": target.kind,
                    "classes": list(target.classes),
                    "test_images": len(result.outcome.patients),
                    **result.facts,
                    "measures": to_plain(result.outcome.estimates()),
                }
            )
            if save and state.is_main_process:
                probe = result.probes[0].with_facts(encoder=facts, pooling=pooling)
                probe.save(save / f"{target.name}.safetensors")

        # 4. Numbers and table.
        if state.is_main_process:
            settings = {
                "manifests": [str(path) for path in judging.manifest],
                "pooling": pooling,
                "solver": solver,
                "images": str(examples),
            }
            content = {"encoder": facts, "settings": settings, "results": records}
            numbers.put(content, _table(facts, records))


def _table(facts: dict[str, Any], records: list[dict[str, Any]]) -> str:
    from llava_rad.probing import MEASURES, interval, measure_label, number

    head = ["column", "classes", "test images", "measure"]
    head += ["value", "95 % interval", "sd", "baseline"]
    rows = [
        [
            record["column"],
            str(len(record["classes"]) or ""),
            str(record["test_images"]),
            measure_label(name),
            number(measure["value"]),
            interval(measure["low"], measure["high"]),
            number(measure["spread"]),
            number(measure["baseline"]),
        ]
        for record in records
        for name, measure in record["measures"].items()
    ]
    about = (
        f"{facts['name']}: {facts['input_size']} px, {facts['tokens']} tokens, "
        f"{facts['parameters']:,} parameters"
    )
    shown = {name for record in records for name in record["measures"]}
    notes = [f"{measure_label(name)}: {MEASURES[name]}" for name in MEASURES if name in shown]
    return "\n".join([about, "", text_table(head, rows), "", *notes])


app = program_app(main, __doc__, "eval/attributes.py")

if __name__ == "__main__":
    app()
