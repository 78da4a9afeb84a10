"""Judge an encoder by what a linear layer, and its nearest neighbours, tell of the labels.

    python eval/classification.py --encoder rad-dino --manifest nih.jsonl --labels Pneumonia,Edema
    python eval/classification.py --encoder random:rad-dino --manifest nih.jsonl -o numbers.json

--pooling attentive learns, for each label, a query that pools the patch tokens: what fills a few
patches, such as a nodule, is lost in CLS and in their mean.

"random:E" is the encoder's architecture with random weights and "pixels" the gray values, the
baselines to beat. The manifest's labels are learned on its training patients, settings are chosen
on validation, and AUROC and AUPRC are measured on the test patients, with 95 % intervals from
resampled patients. Labels that are not stated are left out of loss and measures. Vectors are
computed once and kept in --cache.

The table goes to standard output, progress to standard error. Several processes:
`accelerate launch eval/classification.py ...` (or torchrun on CPUs).
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import (
    AnyPooling,
    Judging,
    Numbers,
    Solver,
    Workers,
    names,
)
from llava_rad.ending import program_ending
from llava_rad.errors import ConfigError
from llava_rad.evaluation.table import text_table

if TYPE_CHECKING:
    from llava_rad.probing.classification import ProbeResult

# What --save writes.
LINEAR, TUNED, QUERIES = (f"{name}_probe.safetensors" for name in ("linear", "tuned", "attentive"))


def main(
    judging: Judging,
    numbers: Numbers,
    labels: Annotated[
        str, typer.Option(help="The labels, with commas between; all if empty.")
    ] = "",
    uncertain: Annotated[
        Literal["unknown", "positive", "negative"],
        typer.Option(help="What an uncertain label counts as."),
    ] = "unknown",
    pooling: AnyPooling = "cls",
    solver: Solver = "lbfgs",
    seeds: Annotated[
        int,
        typer.Option(min=1, help="How many fits of adamw, of drawn shares and of fine-tuning."),
    ] = 5,
    fractions: Annotated[
        str, typer.Option(help="Shares of the training patients, such as 0.01,0.1,1.")
    ] = "1",
    tune: Annotated[
        bool, typer.Option("--fine-tune", help="Also train encoder and layer together.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="How many epochs fine-tuning takes.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="The learning rate of fine-tuning.")] = 1e-4,
    workers: Workers = 0,
    save: Annotated[
        Path | None, typer.Option(help="A folder to keep the fitted layer and tuned encoder in.")
    ] = None,
) -> None:
    """Read, encode, fit, test, print."""
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # Heavy imports wait until the options are read.
        from llava_rad.features import FeatureStore
        from llava_rad.outputs import has_checksums, own_shared_results
        from llava_rad.probing import (
            encoder_facts,
            extract_features,
            fine_tune,
            label_names,
            label_targets,
            run_attentive_probe,
            run_knn,
            run_linear_probe,
            split_vectors,
        )
        from llava_rad.probing.features import ATTENTIVE
        from llava_rad.processes import process_state

        state = process_state()
        results: list[tuple[str, ProbeResult]] = []
        # 1. The encoder and the images.
        loaded, examples, inputs = judging.open()
        numbers.claim(("encoder", "results"), inputs)
        probes = dict.fromkeys((LINEAR, TUNED, QUERIES), has_checksums)
        overwrite, what = numbers.overwrite, "run of classification"
        stack.enter_context(
            own_shared_results(save, probes, inputs, what=what, overwrite=overwrite)
        )
        targets = label_targets(examples, names(labels), uncertain=uncertain)
        shares = [_share(part) for part in names(fractions)]
        say_once(f"{loaded.name}: {examples}")
        unused = set(label_names(examples)) - {target.name for target in targets}
        if unused and not labels:
            say_once(f"not measured, of one value in training or test: {', '.join(sorted(unused))}")

        # 2. Attentive probes on patch tokens, or
        if pooling == ATTENTIVE:
            tokens = FeatureStore(judging.cache, loaded, workers=workers)
            for share in sorted(shares):
                say_once(f"fitting on {100 * share:g} % of the training patients")
                attentive = run_attentive_probe(
                    tokens, examples, targets, seeds=seeds, fraction=share, progress=say_once
                )
                results.append((ATTENTIVE, attentive))

        # 3. probes and neighbours of one vector an image, on each share of the training patients.
        else:
            features = extract_features(
                loaded,
                [e.path for e in examples.all],
                cache=judging.cache,
                workers=workers,
                progress=lambda done, of: say_once(f"encoded {done} of {of}"),
            )
            vectors = split_vectors(features, examples, pooling)
            for share in sorted(shares):
                say_once(f"fitting on {100 * share:g} % of the training patients")
                linear = run_linear_probe(
                    vectors, targets, solver=solver, seeds=seeds, fraction=share
                )
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
                progress=say_once,
            )
            results.append(("fine-tuned", tuned))

        # 5. Layers, numbers, table.
        facts = encoder_facts(loaded)
        if state.is_main_process:
            rows = [_record(method, result) for method, result in results]
            if save:
                _save(save, results, facts, pooling)
            settings = {
                "manifests": [str(path) for path in judging.manifest],
                "pooling": pooling,
                "uncertain": uncertain,
                "images": str(examples),
            }
            content = {"encoder": facts, "settings": settings, "results": rows}
            numbers.put(content, _table(facts, rows))


def _record(method: str, result: "ProbeResult") -> dict[str, Any]:
    from llava_rad.probing import to_plain

    return {
        "method": method,
        "training_patients": result.patients[""].training,
        "patients": {label or "all": asdict(count) for label, count in result.patients.items()},
        **result.facts,
        "measures": to_plain(result.outcome.estimates()),
    }


def _table(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    from llava_rad.probing import interval, number

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


def _save(
    folder: Path, results: list[tuple[str, "ProbeResult"]], facts: dict, pooling: str
) -> None:
    """The first seed's probe on most patients, and the layer of fine-tuning."""
    of_pooling = QUERIES if pooling == "attentive" else LINEAR
    for method, result in results:
        if result.probes:
            name, layer = (TUNED, "cls") if method == "fine-tuned" else (of_pooling, pooling)
            result.probes[0].with_facts(encoder=facts, pooling=layer).save(folder / name)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a number", where="--fractions", remedy="Give shares such as 0.1,1"
        ) from None


app = program_app(main, __doc__, "eval/classification.py")

if __name__ == "__main__":
    app()
