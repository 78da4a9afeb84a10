"""Judge an encoder by what a linear layer, and its nearest neighbours, tell of the labels.

    python eval/classification.py --encoder E --manifest F.jsonl [--labels Pneumonia,Edema]

E is a registered name, a folder or a hub id; "random:E" is its architecture with random weights and
"pixels" the gray values, the baselines to beat. The manifest's labels are learned on its training
patients, settings are chosen on validation, and AUROC and AUPRC are measured on the test patients,
with 95 % intervals from resampled patients. Labels that are not stated are left out of loss and
measures. Vectors are computed once and kept in --cache.

The table goes to standard output, progress to standard error; --json also writes all numbers.
Several processes: accelerate launch eval/classification.py ... (or torchrun on CPUs).
Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.ending import program_ending
from llava_rad.evaluation.table import text_table
from llava_rad.outputs import claim_json, has_checksums, own_shared_results, write_result
from llava_rad.probing import (
    encoder_facts,
    extract_features,
    fine_tune,
    interval,
    label_names,
    label_targets,
    load_judged,
    number,
    read_examples,
    run_knn,
    run_linear_probe,
    split_vectors,
    to_plain,
)
from llava_rad.probing.classification import ProbeResult
from llava_rad.processes import process_state

LINEAR, TUNED = "linear_probe.safetensors", "tuned_probe.safetensors"
PROBES = dict.fromkeys((LINEAR, TUNED), has_checksums)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, no_args_is_help=True)
def main(
    encoder: Annotated[str, typer.Option(help="Name, folder, hub id, random:E or pixels.")],
    manifest: Annotated[list[Path], typer.Option(help="One or, given again, several.")],
    labels: Annotated[str, typer.Option(help="With commas between; all if empty.")] = "",
    uncertain: Annotated[
        str, typer.Option(help="What an uncertain label counts as: unknown, positive, negative.")
    ] = "unknown",
    views: Annotated[str, typer.Option(help="frontal, lateral, unknown; all if empty.")] = "",
    pooling: Annotated[str, typer.Option(help="cls, mean (of the patches), cls+mean.")] = "cls",
    solver: Annotated[str, typer.Option(help="lbfgs (one solution) or adamw.")] = "lbfgs",
    seeds: Annotated[
        int, typer.Option(min=1, help="Fits of adamw, of drawn shares, of fine-tuning.")
    ] = 5,
    fractions: Annotated[
        str, typer.Option(help="Shares of the training patients, such as 0.01,0.1,1.")
    ] = "1",
    tune: Annotated[
        bool, typer.Option("--fine-tune", help="Also train encoder and layer together.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Of fine-tuning.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Of fine-tuning.")] = 1e-4,
    image_size: Annotated[int | None, typer.Option(help="Other than the encoder's own.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for vectors.")] = Path("runs/features"),
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images ahead.")] = 0,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the fitted layer (and tuned encoder).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers here.")
    ] = None,
) -> None:
    """Read, encode, fit, test, print."""
    state = process_state()
    results: list[tuple[str, ProbeResult]] = []
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # 1. The encoder and the images.
        loaded = load_judged(encoder, image_size=image_size, device=state.device)
        examples = read_examples(manifest, _split(views))
        inputs = [*manifest, *(example.path for example in examples.all)]
        claim_json(json_file, ("encoder", "results"), inputs, overwrite=overwrite)
        if save:
            stack.enter_context(
                own_shared_results(
                    save, PROBES, inputs, what="run of classification", overwrite=overwrite
                )
            )
        targets = label_targets(examples, _split(labels), uncertain=uncertain)
        shares = [_share(part) for part in _split(fractions)]
        say(f"{loaded.name}: {examples}")
        unused = set(label_names(examples)) - {target.name for target in targets}
        if unused and not labels:
            say(f"not measured, of one value in training or test: {', '.join(sorted(unused))}")

        # 2. One vector an image.
        features = extract_features(
            loaded,
            [e.path for e in examples.all],
            cache=cache,
            workers=workers,
            progress=lambda done, of: say(f"encoded {done} of {of}"),
        )
        vectors = split_vectors(features, examples, pooling)

        # 3. Probes and neighbours, on each share of the training patients.
        for share in sorted(shares):
            say(f"fitting on {100 * share:g} % of the training patients")
            linear = run_linear_probe(vectors, targets, solver=solver, seeds=seeds, fraction=share)
            results.append((f"linear ({solver})", linear))
            results.append(("k-NN", run_knn(vectors, targets, seeds=seeds, fraction=share)))

        # 4. Fine-tuning, where it is asked for.
        if tune:
            tuned = fine_tune(
                loaded,
                examples,
                targets,
                epochs=epochs,
                learning_rate=learning_rate,
                seeds=seeds,
                workers=workers,
                save=save / "encoder" if save else None,
                progress=say,
            )
            results.append(("fine-tuned", tuned))

        # 5. Layers, numbers, table.
        facts = encoder_facts(loaded)
        if state.is_main_process:
            rows = [_record(method, result) for method, result in results]
            if save:
                _save(save, results, facts, pooling)
            if json_file:
                settings = {
                    "manifests": [str(path) for path in manifest],
                    "pooling": pooling,
                    "uncertain": uncertain,
                    "images": str(examples),
                }
                content = {"encoder": facts, "settings": settings, "results": rows}
                write_result(json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")
            print(_table(facts, rows))


def _record(method: str, result: ProbeResult) -> dict[str, Any]:
    return {
        "method": method,
        "training_patients": result.patients[""].training,
        "patients": {label or "all": asdict(count) for label, count in result.patients.items()},
        **result.facts,
        "measures": to_plain(result.outcome.estimates()),
    }


def _table(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = ["method", "patients", "fits", "label", "test patients"]
    head += ["AUROC", "95 % interval", "sd", "AUPRC", "95 % interval", "sd", "positive"]
    cells = []
    for row in rows:
        measures = row["measures"]
        for label in [name.removeprefix("auroc") for name in measures if name.startswith("auroc")]:
            name = label[1:] or "all"
            count = row["patients"][name]
            cell = [row["method"], str(count["training"]), str(row["fits"]), name]
            cell.append(str(count["test"]))
            for area in ("auroc", "auprc"):
                measure = measures[area + label]
                low, high = measure["low"], measure["high"]
                cell += [number(measure["value"]), interval(low, high), number(measure["spread"])]
            cells.append([*cell, number(measures["auprc" + label]["baseline"])])
    about = (
        f"{facts['name']}: {facts['input_size']} px, {facts['tokens']} tokens, "
        f"{facts['parameters']:,} parameters"
    )
    return f"{about}\n\n{text_table(head, cells)}"


def _save(folder: Path, results: list[tuple[str, ProbeResult]], facts: dict, pooling: str) -> None:
    """The first seed's layer of the linear probe on most patients, and of fine-tuning."""
    for method, result in results:
        if result.probes:
            name = TUNED if method == "fine-tuned" else LINEAR
            layer = "cls" if method == "fine-tuned" else pooling
            result.probes[0].with_facts(encoder=facts, pooling=layer).save(folder / name)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number", param_hint="--fractions") from None


def say(line: str) -> None:
    """Progress, from the first process alone."""
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app()
