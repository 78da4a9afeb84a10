"""Judge an encoder by what its features tell of the patient and the recording.

    python eval/attributes.py --encoder E --manifest F.jsonl [--columns sex,age,age_group,view]

A linear layer on the frozen vector predicts each column: numbers (age in years) by regression,
categories (sex, view, age groups of five years) by classification. A column may be any of the
manifest's records, its labels and its extra facts. E is a name, a folder, a hub id, "random:E" for
its architecture with random weights, or "pixels".

The table goes to standard output, progress to standard error; --json also writes all numbers.
"baseline" is what the same test gives without looking at the image: the mean of the training
images, or their most frequent class.
Several processes: accelerate launch eval/attributes.py ... (or torchrun on CPUs).
Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.ending import program_ending
from llava_rad.evaluation.table import text_table
from llava_rad.outputs import claim_json, has_checksums, own_shared_results, write_result
from llava_rad.probing import (
    MEASURES,
    column_target,
    encoder_facts,
    extract_features,
    interval,
    load_judged,
    number,
    read_examples,
    run_linear_probe,
    split_vectors,
    to_plain,
)
from llava_rad.processes import process_state

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, no_args_is_help=True)
def main(
    encoder: Annotated[str, typer.Option(help="Name, folder, hub id, random:E or pixels.")],
    manifest: Annotated[list[Path], typer.Option(help="One or, given again, several.")],
    columns: Annotated[str, typer.Option(help="With commas between.")] = "sex,age,age_group",
    views: Annotated[str, typer.Option(help="frontal, lateral, unknown; all if empty.")] = "",
    pooling: Annotated[str, typer.Option(help="cls, mean (of the patches), cls+mean.")] = "cls",
    solver: Annotated[str, typer.Option(help="lbfgs (one solution) or adamw.")] = "lbfgs",
    seeds: Annotated[int, typer.Option(min=1, help="Fits of adamw.")] = 5,
    image_size: Annotated[int | None, typer.Option(help="Other than the encoder's own.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for vectors.")] = Path("runs/features"),
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images ahead.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Folder for the fitted layers.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers here.")
    ] = None,
) -> None:
    """Read, encode, fit, test, print."""
    state = process_state()
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # 1. The encoder, the images, and what is recorded of them.
        loaded = load_judged(encoder, image_size=image_size, device=state.device)
        examples = read_examples(manifest, [v.strip() for v in views.split(",") if v.strip()])
        targets = [column_target(examples, c.strip()) for c in columns.split(",") if c.strip()]
        facts = encoder_facts(loaded)
        say(f"{loaded.name}: {examples}")

        inputs = [*manifest, *(example.path for example in examples.all)]
        claim_json(json_file, ("encoder", "results"), inputs, overwrite=overwrite)
        if save:
            probes = {f"{target.name}.safetensors": has_checksums for target in targets}
            stack.enter_context(
                own_shared_results(
                    save, probes, inputs, what="run of attributes", overwrite=overwrite
                )
            )

        # 2. One vector an image.
        features = extract_features(
            loaded,
            [e.path for e in examples.all],
            cache=cache,
            workers=workers,
            progress=lambda done, of: say(f"encoded {done} of {of}"),
        )
        vectors = split_vectors(features, examples, pooling)

        # 3. A layer for each column.
        records: list[dict[str, Any]] = []
        for target in targets:
            say(f"fitting {target.name}")
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
            if json_file:
                settings = {
                    "manifests": [str(path) for path in manifest],
                    "pooling": pooling,
                    "solver": solver,
                    "images": str(examples),
                }
                content = {"encoder": facts, "settings": settings, "results": records}
                write_result(json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")
            print(_table(facts, records))


def _table(facts: dict[str, Any], records: list[dict[str, Any]]) -> str:
    head = ["column", "classes", "test images", "measure"]
    head += ["value", "95 % interval", "sd", "baseline"]
    rows = [
        [
            record["column"],
            str(len(record["classes"]) or ""),
            str(record["test_images"]),
            name,
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
    notes = [f"{name}: {MEASURES[name]}" for name in MEASURES if name in shown]
    return "\n".join([about, "", text_table(head, rows), "", *notes])


def say(line: str) -> None:
    """Progress, from the first process alone."""
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app()
