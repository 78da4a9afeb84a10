"""Judge an encoder by how well light decoders outline structures from its frozen patch tokens.

    python eval/segmentation.py --encoder E --manifest F.jsonl [--masks lungs] [--head linear]

Masks are the manifest's lung masks, or --masks NAME=FOLDER of pictures named like the images,
NAME=FOLDER:VALUE for one label of maps of several structures, NAME=TABLE.csv of run lengths
(SIIM-ACR, CANDID-PTX), or RIBS.json (VinDr-RibCXR), again for more.
Heads: linear (a layer a token), pyramid (ViTDet's simple pyramid), upernet. A head is trained on
the training patients' images, its learning rate chosen on validation, and Dice and surface distance
are measured on the test patients, with 95 % intervals from resampled patients. E is a name, a
folder, a hub id, "random:E" for its architecture with random weights, or "pixels".

--save keeps the first seed's head; --load tests such a head without training.
The table goes to standard output, progress to standard error; --json also writes all numbers, and
--overlays a picture of the worst, middle and best test images (true outlines in green).
Several processes: accelerate launch eval/segmentation.py ... (or torchrun on CPUs).
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

import numpy as np
import typer

from llava_rad.encoders import ImageEncoder
from llava_rad.ending import program_ending
from llava_rad.evaluation.table import text_table
from llava_rad.features import FeatureCache
from llava_rad.images import load_radiograph
from llava_rad.outputs import (
    claim,
    claim_json,
    is_our_picture,
    own_shared_results,
    write_picture,
    write_result,
)
from llava_rad.probing import (
    MEASURES,
    encoder_facts,
    interval,
    load_judged,
    number,
    read_examples,
    to_plain,
)
from llava_rad.probing.masks import MaskSource, open_masks
from llava_rad.probing.pictures import overlay, sheet
from llava_rad.probing.segmentation import (
    SegmentationResult,
    evaluate_head,
    predict_masks,
    seeing_whole_images,
    segment,
)
from llava_rad.probing.segmentation_heads import HEAD_FILES, load_head
from llava_rad.processes import process_state

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, no_args_is_help=True)
def main(
    encoder: Annotated[str, typer.Option(help="Name, folder, hub id, random:E or pixels.")],
    manifest: Annotated[list[Path], typer.Option(help="One or, given again, several.")],
    masks: Annotated[list[str] | None, typer.Option(help="lungs, NAME=PATH or a JSON.")] = None,
    head: Annotated[str, typer.Option(help="linear, pyramid or upernet.")] = "linear",
    width: Annotated[int, typer.Option(min=1, help="Channels of pyramid and upernet.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Of each fit, of 16 images each.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Fits.")] = 5,
    views: Annotated[str, typer.Option(help="frontal, lateral, unknown; all if empty.")] = "",
    image_size: Annotated[int | None, typer.Option(help="Other than the encoder's own.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for patch tokens.")] = Path("runs/features"),
    save: Annotated[Path | None, typer.Option(help="Folder for the head.")] = None,
    load: Annotated[Path | None, typer.Option(help="Test this head; train none.")] = None,
    overlays: Annotated[Path | None, typer.Option(help="PNG of nine test images.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers here.")
    ] = None,
) -> None:
    """Read, encode, train, test, print."""
    state = process_state()
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # 1. The encoder, which shall see whole images; the images and their masks.
        judged = load_judged(encoder, image_size=image_size, device=state.device)
        whole = seeing_whole_images(judged)
        examples = read_examples(manifest, [v.strip() for v in views.split(",") if v.strip()])
        inputs = [*manifest, *(example.path for example in examples.all)]
        claim_json(json_file, ("encoder", "results"), inputs, overwrite=overwrite)
        claim(overlays, is_our_picture, "picture of this program", inputs, overwrite=overwrite)
        if save:
            stack.enter_context(
                own_shared_results(
                    save, HEAD_FILES, inputs, what="run of segmentation", overwrite=overwrite
                )
            )
        sources = open_masks(masks or [])
        tokens = FeatureCache(cache, whole)
        facts = encoder_facts(whole)

        # 2. A head, trained or loaded, and its test.
        if load:
            result = evaluate_head(whole, examples.test, sources, tokens, load_head(load))
        else:
            result = segment(
                whole,
                examples,
                sources,
                tokens,
                head=head,
                width=width,
                steps=steps,
                seeds=seeds,
                progress=say,
            )
            result.head.facts = {"encoder": facts, "steps": steps}
        record = {
            "head": result.head.kind,
            "head_parameters": sum(p.numel() for p in result.head.parameters()),
            "fits": result.outcome.seeds,
            "test_images": len(result.examples),
            "validation_dice": {f"{k:g}": v for k, v in result.validation_dice.items()},
            "measures": to_plain(result.outcome.estimates()),
        }

        # 3. Head, pictures, numbers, table.
        if state.is_main_process:
            if save:
                result.head.save(save)
            if overlays:
                write_picture(overlays, draw(whole, sources, result))
            if json_file:
                settings = {"manifests": [str(path) for path in manifest], "images": str(examples)}
                content = {"encoder": facts, "settings": settings, "results": [record]}
                write_result(json_file, json.dumps(content, indent=1, allow_nan=False) + "\n")
            print(_table(facts, record))


def draw(encoder: ImageEncoder, sources: list[MaskSource], result: SegmentationResult):
    """The three worst, middle and best test images by the first seed's mean Dice."""
    overlap = np.nanmean(result.outcome.dice[0], axis=1)
    order = np.argsort(overlap, kind="stable")
    middle = max(0, len(order) // 2 - 1)
    rows = []
    for chosen in (order[:3], order[middle : middle + 3], order[::-1][:3]):
        row = []
        for index in chosen:
            example = result.examples[index]
            rendering = encoder.preprocessing.rendering
            radiograph = load_radiograph(example.path, rendering=rendering)
            true = [mask for source in sources for mask in source.read(example)]
            predicted = predict_masks(encoder, result.head, radiograph)
            picture = overlay(radiograph.pixels, true, list(predicted.values()))
            row.append((picture, f"{Path(example.path).stem}  Dice {overlap[index]:.3f}"))
        rows.append(row)
    return sheet(rows)


def _table(facts: dict[str, Any], record: dict[str, Any]) -> str:
    head = ["head", "test images", "fits", "measure", "value", "95 % interval", "sd"]
    rows = [
        [
            record["head"],
            str(record["test_images"]),
            str(record["fits"]),
            name,
            number(measure["value"]) + _of(measure["baseline"]),
            interval(measure["low"], measure["high"]),
            number(measure["spread"]),
        ]
        for name, measure in record["measures"].items()
    ]
    about = (
        f"{facts['name']}: {facts['input_size']} px, {facts['tokens']} tokens, "
        f"{facts['parameters']:,} parameters; head: {record['head_parameters']:,} parameters"
    )
    shown = {name.split("/")[0] for name in record["measures"]}
    notes = [f"{name}: {MEASURES[name]}" for name in MEASURES if name in shown]
    return "\n".join([about, "", text_table(head, rows), "", *notes])


def _of(baseline: float | None) -> str:
    """Behind the number of missed structures, how many there were to miss."""
    return "" if baseline is None else f" of {baseline:.0f}"


def say(line: str) -> None:
    """Progress, from the first process alone."""
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app()
