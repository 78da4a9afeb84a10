"""Look at what an encoder sees: three pictures of its tokens.

    python eval/visualise.py --encoder E --manifest F.jsonl -o OUT

OUT gets pca.png (the first three principal components of the patch tokens as red, green and blue;
like tokens have like colours, in all images), attention.png (where CLS looks in the last block) and
neighbours.png (test images, and the training images whose CLS vectors are most like theirs).

The images are test images of the manifest, drawn by --seed. More tokens an image give finer maps:
--image-size 448. What was written goes to standard output, progress to standard error.
Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from llava_rad.encoders import ImageEncoder
from llava_rad.ending import program_ending
from llava_rad.errors import ModelError
from llava_rad.images import load_radiograph
from llava_rad.outputs import is_our_picture, own_results, write_picture
from llava_rad.probing import (
    Example,
    Examples,
    extract_features,
    load_judged,
    nearest_neighbours,
    read_examples,
)
from llava_rad.probing.pictures import colour_grid, heat, sheet, shrink
from llava_rad.probing.segmentation import seeing_whole_images
from llava_rad.probing.token_maps import cls_attention, principal_colours
from llava_rad.processes import process_state

TILE = 224

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__, no_args_is_help=True)
def main(
    encoder: Annotated[str, typer.Option(help="Name, folder, hub id, random:E or pixels.")],
    manifest: Annotated[list[Path], typer.Option(help="One or, given again, several.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")],
    images: Annotated[int, typer.Option(min=1, help="How many test images.")] = 8,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours of each.")] = 5,
    views: Annotated[str, typer.Option(help="frontal, lateral, unknown; all if empty.")] = "",
    image_size: Annotated[int | None, typer.Option(help="Other than the encoder's own.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for vectors.")] = Path("runs/features"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
) -> None:
    """Read, encode, draw."""
    with program_ending(), contextlib.ExitStack() as stack:
        # 1. The encoder and some test images.
        loaded = load_judged(encoder, image_size=image_size, device=process_state().device)
        examples = read_examples(manifest, [v.strip() for v in views.split(",") if v.strip()])
        pictures = dict.fromkeys(("pca.png", "attention.png", "neighbours.png"), is_our_picture)
        inputs = [*manifest, *(example.path for example in examples.all)]
        stack.enter_context(
            own_results(out, pictures, inputs, what="run of visualise", overwrite=overwrite)
        )
        order = np.random.default_rng(seed).permutation(len(examples.test))
        chosen = [examples.test[index] for index in sorted(order[:images])]

        # 2. Their tokens.
        whole = seeing_whole_images(loaded)
        pixels = torch.stack([_input(whole, example) for example in chosen])
        with torch.inference_mode():
            patches = whole.encode(pixels.to(process_state().device)).patches.cpu()
        _write(_colour_sheet(whole, chosen, pixels, patches), out / "pca.png")

        # 3. The attention of CLS, where the encoder's family tells it.
        try:
            _write(_attention_sheet(whole, chosen, pixels), out / "attention.png")
        except ModelError as error:
            print(f"no attention.png: {error}", file=sys.stderr)

        # 4. Neighbours among the training images.
        _write(
            _neighbour_sheet(loaded, examples, chosen, neighbours, cache), out / "neighbours.png"
        )


def _input(encoder: ImageEncoder, example: Example) -> torch.Tensor:
    rendering = encoder.preprocessing.rendering
    return encoder.preprocessing(load_radiograph(example.path, rendering=rendering))


def _as_seen(encoder: ImageEncoder, pixels: torch.Tensor) -> np.ndarray:
    """An encoder's input as gray values again."""
    gray = pixels[0] * encoder.preprocessing.std[0] + encoder.preprocessing.mean[0]
    return (255 * gray).round().clamp(0, 255).byte().numpy()


def _colour_sheet(
    encoder: ImageEncoder, examples: list[Example], pixels: torch.Tensor, patches: torch.Tensor
) -> Image.Image:
    colours = principal_colours(patches, encoder.grid(*pixels.shape[-2:]))
    seen, maps = [], []
    for example, image, grid in zip(examples, pixels, colours, strict=True):
        gray = Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE))
        seen.append((gray.convert("RGB"), example.study.study_id))
        maps.append((colour_grid(grid, (TILE, TILE)), "first three components"))
    return sheet([seen, maps])


def _attention_sheet(
    encoder: ImageEncoder, examples: list[Example], pixels: torch.Tensor
) -> Image.Image:
    attention = cls_attention(encoder, pixels.to(process_state().device))
    tiles = []
    for example, image, weights in zip(examples, pixels, attention, strict=True):
        gray = Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE))
        picture = heat(np.asarray(gray), weights.numpy())
        tiles.append((picture, f"{example.study.study_id}  most {weights.max():.3f}"))
    half = (len(tiles) + 1) // 2
    return sheet([row for row in (tiles[:half], tiles[half:]) if row])


def _neighbour_sheet(
    encoder: ImageEncoder, examples: Examples, chosen: list[Example], count: int, cache: Path
) -> Image.Image:
    vectors = extract_features(
        encoder,
        [e.path for e in (*examples.train, *chosen)],
        cache=cache,
        progress=lambda done, of: print(f"encoded {done} of {of}", file=sys.stderr),
    ).cls.double()
    train = len(examples.train)
    nearest, similarity = nearest_neighbours(
        vectors[train:].numpy(), vectors[:train].numpy(), count
    )
    rows = []
    for example, indices, values in zip(chosen, nearest, similarity, strict=True):
        row = [(_tile(example), f"test: {_about(example)}")]
        for index, value in zip(indices, values, strict=True):
            neighbour = examples.train[index]
            row.append((_tile(neighbour), f"{value:.2f}  {_about(neighbour)}"))
        rows.append(row)
    return sheet(rows)


def _tile(example: Example) -> Image.Image:
    """A radiograph in the middle of a black square."""
    picture = shrink(Image.fromarray(load_radiograph(example.path).pixels).convert("RGB"), TILE)
    square = Image.new("RGB", (TILE, TILE))
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return square


def _about(example: Example) -> str:
    """Sex, age, and the labels that are present."""
    study = example.study
    facts = [study.sex or "", "" if study.age is None else f"{study.age:.0f}"]
    facts += [name for name, value in study.labels.items() if value == 1]
    facts.append(study.extra.get("diagnosis", ""))
    return ", ".join(fact for fact in facts if fact) or study.study_id


def _write(picture: Image.Image, path: Path) -> None:
    write_picture(path, picture)
    print(path)


if __name__ == "__main__":
    app()
