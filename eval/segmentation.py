"""Judge an encoder by how well light decoders outline structures from its frozen patch tokens.

    python eval/segmentation.py --encoder rad-dino --manifest covid.jsonl --masks lungs
    python eval/segmentation.py --encoder mini --manifest candid.jsonl --masks ptx=masks.csv

Masks are the manifest's lung masks, or --masks NAME=FOLDER of pictures named like the images,
NAME=FOLDER:VALUE for one label of maps of several structures, NAME=TABLE.csv of run lengths
(SIIM-ACR, CANDID-PTX), or RIBS.json (VinDr-RibCXR), again for more.
Heads: linear (a layer a token), pyramid (ViTDet's simple pyramid), upernet. A head is trained on
the training patients' images, its learning rate chosen on validation, and Dice and surface distance
are measured on the test patients, with 95 % intervals from resampled patients.

--save keeps the first seed's head; --load tests such a head without training. --overlays writes a
picture of the worst, middle and best test images (true outlines solid, predicted ones broken). The
table goes to standard output, progress to standard error.
Several processes: `accelerate launch eval/segmentation.py ...` (or torchrun on CPUs).
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import Judging, Numbers
from llava_rad.ending import program_ending
from llava_rad.evaluation.table import text_table

if TYPE_CHECKING:
    from llava_rad.encoders import ImageEncoder
    from llava_rad.probing.gallery import Gallery
    from llava_rad.probing.masks import MaskSource
    from llava_rad.probing.segmentation import SegmentationResult


def main(
    judging: Judging,
    numbers: Numbers,
    masks: Annotated[
        list[str] | None,
        typer.Option(help="The masks: lungs, NAME=PATH or a JSON; give it again for more."),
    ] = None,
    head: Annotated[
        Literal["linear", "pyramid", "upernet"], typer.Option(help="The decoder.")
    ] = "linear",
    width: Annotated[
        int, typer.Option(min=1, help="How many channels pyramid and upernet have.")
    ] = 256,
    steps: Annotated[
        int, typer.Option(min=1, help="How many steps a fit takes, of 16 images each.")
    ] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="How many fits.")] = 5,
    save: Annotated[Path | None, typer.Option(help="A folder to keep the head in.")] = None,
    load: Annotated[
        Path | None, typer.Option(help="Test the head of this folder, and train none.")
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="A PNG to draw nine test images into.")
    ] = None,
) -> None:
    """Read, encode, train, test, print."""
    with (
        program_ending("vectors in the cache stay, nothing else was written"),
        contextlib.ExitStack() as stack,
    ):
        # Heavy imports wait until the options are read.
        from llava_rad.features import FeatureStore
        from llava_rad.outlines import FILE, load_head, seeing_whole_images
        from llava_rad.outputs import (
            claim,
            has_checksums,
            is_our_picture,
            own_shared_results,
            write_bytes_result,
        )
        from llava_rad.probing import encoder_facts, to_plain
        from llava_rad.probing.gallery import draw_gallery
        from llava_rad.probing.masks import open_masks
        from llava_rad.probing.segmentation import evaluate_head, segment
        from llava_rad.processes import process_state

        state = process_state()
        # 1. The encoder, which shall see whole images; the images and their masks.
        judged, examples, inputs = judging.open()
        whole = seeing_whole_images(judged)
        numbers.claim(("encoder", "results"), inputs)
        overwrite, what = numbers.overwrite, "run of segmentation"
        claim(overlays, is_our_picture, "picture of this program", inputs, overwrite=overwrite)
        stack.enter_context(
            own_shared_results(save, {FILE: has_checksums}, inputs, what=what, overwrite=overwrite)
        )
        sources = open_masks(masks or [])
        tokens = FeatureStore(judging.cache, whole)
        facts = encoder_facts(whole)

        # 2. A head, trained or loaded, and its test.
        if load:
            result = evaluate_head(whole, examples.test, sources, tokens, load_head(load / FILE))
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
                progress=say_once,
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
                result.head.save(save / FILE)
            if overlays:
                write_bytes_result(overlays, draw_gallery(draw(whole, sources, result)))
            manifests = [str(path) for path in judging.manifest]
            settings = {"manifests": manifests, "images": str(examples)}
            content = {"encoder": facts, "settings": settings, "results": [record]}
            numbers.put(content, _table(facts, record))


def draw(
    encoder: "ImageEncoder", sources: "list[MaskSource]", result: "SegmentationResult"
) -> "Gallery":
    """The three worst, middle and best test images by the first seed's mean Dice."""
    import numpy as np
    from PIL import Image

    from llava_rad.appearance.figures import ON_RADIOGRAPHS
    from llava_rad.images import load_radiograph
    from llava_rad.outlines import predict_masks
    from llava_rad.probing.gallery import Gallery, Outline, Tile
    from llava_rad.probing.pictures import shrink

    true_colour, *predicted_colours = ON_RADIOGRAPHS
    overlap = np.nanmean(result.outcome.dice[0], axis=1)
    order = [int(index) for index in np.argsort(overlap, kind="stable")]
    colours = dict(zip(result.head.structures, itertools.cycle(predicted_colours), strict=False))

    def tile(index: int) -> Tile:
        example = result.examples[index]
        radiograph = load_radiograph(example.path, rendering=encoder.preprocessing.rendering)
        true = [mask for source in sources for mask in source.read(example)]
        predicted = predict_masks(encoder, result.head, radiograph)
        outlines = [Outline(mask, true_colour) for mask in true if mask is not None]
        outlines += [Outline(mask, colours[name], "--") for name, mask in predicted.items()]
        picture = shrink(Image.fromarray(radiograph.pixels), 384)
        return Tile(picture, f"Dice {overlap[index]:.3f}: {Path(example.path).stem}", outlines)

    return Gallery(
        f"{', '.join(colours)}: {result.head.kind} head on {encoder.name}",
        {
            f"{name} of {len(order)} test images": [tile(index) for index in chosen]
            for name, chosen in ends_and_middle(order).items()
        },
        "By the mean Dice of the structures in the first fit, 0 (no overlap) to 1 (the same area).",
        legend={
            "true": (true_colour, "-"),
            **{f"predicted: {name}": (colour, "--") for name, colour in colours.items()},
        },
    )


def ends_and_middle(order: list[int], count: int = 3) -> dict[str, list[int]]:
    """The first, middle and last of an order from worst to best, none of them twice."""
    worst, rest = order[:count], order[count:]
    best, rest = rest[-count:][::-1], rest[:-count]
    middle = max(0, (len(rest) - count) // 2)
    return {"Worst": worst, "Middle": rest[middle : middle + count], "Best": best}


def _table(facts: dict[str, Any], record: dict[str, Any]) -> str:
    from llava_rad.probing import MEASURES, interval, measure_label, number

    head = ["head", "test images", "fits", "measure", "value", "95 % interval", "sd"]
    rows = [
        [
            record["head"],
            str(record["test_images"]),
            str(record["fits"]),
            measure_label(name),
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
    notes = [f"{measure_label(name)}: {MEASURES[name]}" for name in MEASURES if name in shown]
    return "\n".join([about, "", text_table(head, rows), "", *notes])


def _of(baseline: float | None) -> str:
    """Behind the number of missed structures, how many there were to miss."""
    return "" if baseline is None else f" of {baseline:.0f}"


app = program_app(main, __doc__, "eval/segmentation.py")

if __name__ == "__main__":
    app()
