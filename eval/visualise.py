"""Look at what an encoder sees: three pictures of its tokens.

    python eval/visualise.py --encoder mini --manifest nih.jsonl -o runs/pictures

The output folder gets pca.png (the first three principal components of the patch tokens as red,
green and blue; like tokens have like colours, in all images), attention.png (where CLS looks in the
last block) and neighbours.png (test images, and the training images whose CLS vectors are most like
theirs).

The images are test images of the manifest, drawn by --seed. More tokens an image give finer maps:
--image-size 448. What was written goes to standard output, progress to standard error.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import Judging, OutputFolder, Seed, device_of_process
from llava_rad.ending import program_ending
from llava_rad.errors import ModelError
from llava_rad.outputs import write_bytes_result

if TYPE_CHECKING:
    import torch

    from llava_rad.encoders import ImageEncoder
    from llava_rad.probing import Example, Examples

TILE = 224


def main(
    judging: Judging,
    output: OutputFolder,
    images: Annotated[int, typer.Option(min=1, help="How many test images are drawn.")] = 8,
    neighbours: Annotated[int, typer.Option(min=1, help="How many neighbours of each.")] = 5,
    seed: Seed = 0,
) -> None:
    """Read, encode, draw."""
    with program_ending():
        # Heavy imports wait until the options are read.
        import torch

        from llava_rad.probing import load_judged, read_examples
        from llava_rad.probing.segmentation import seeing_whole_images

        # 1. The encoder and some test images.
        device = device_of_process(judging.device)
        loaded = load_judged(judging.encoder, image_size=judging.image_size, device=device)
        examples = read_examples(judging.manifest, judging.view_names)
        order = np.random.default_rng(seed).permutation(len(examples.test))
        chosen = [examples.test[index] for index in sorted(order[:images])]
        output.mkdir(parents=True, exist_ok=True)

        # 2. Their tokens.
        whole = seeing_whole_images(loaded)
        pixels = torch.stack([_input(whole, example) for example in chosen])
        with torch.inference_mode():
            patches = whole.encode(pixels.to(device)).patches.cpu()
        _write(_colour_sheet(whole, chosen, pixels, patches), output / "pca.png")

        # 3. The attention of CLS, where the encoder's family tells it.
        try:
            _write(_attention_sheet(whole, chosen, pixels), output / "attention.png")
        except ModelError as error:
            say_once(f"no attention.png: {error}")

        # 4. Neighbours among the training images.
        found = _neighbour_sheet(loaded, examples, chosen, neighbours, judging.cache)
        _write(found, output / "neighbours.png")


def _input(encoder: "ImageEncoder", example: "Example") -> "torch.Tensor":
    from llava_rad.images import load_radiograph

    rendering = encoder.preprocessing.rendering
    return encoder.preprocessing(load_radiograph(example.path, rendering=rendering))


def _as_seen(encoder: "ImageEncoder", pixels: "torch.Tensor") -> np.ndarray:
    """An encoder's input as gray values again."""
    gray = pixels[0] * encoder.preprocessing.std[0] + encoder.preprocessing.mean[0]
    return (255 * gray).round().clamp(0, 255).byte().numpy()


def _colour_sheet(
    encoder: "ImageEncoder",
    examples: "list[Example]",
    pixels: "torch.Tensor",
    patches: "torch.Tensor",
) -> Image.Image:
    from llava_rad.probing.pictures import colour_grid, sheet
    from llava_rad.probing.token_maps import principal_colours

    colours = principal_colours(patches, encoder.grid(*pixels.shape[-2:]))
    seen, maps = [], []
    for example, image, grid in zip(examples, pixels, colours, strict=True):
        gray = Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE))
        seen.append((gray.convert("RGB"), example.study.study_id))
        maps.append((colour_grid(grid, (TILE, TILE)), "first three components"))
    return sheet([seen, maps])


def _attention_sheet(
    encoder: "ImageEncoder", examples: "list[Example]", pixels: "torch.Tensor"
) -> Image.Image:
    from llava_rad.probing.pictures import heat, sheet
    from llava_rad.probing.token_maps import cls_attention

    attention = cls_attention(encoder, pixels.to(next(encoder.parameters()).device))
    tiles = []
    for example, image, weights in zip(examples, pixels, attention, strict=True):
        gray = Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE))
        picture = heat(np.asarray(gray), weights.numpy())
        tiles.append((picture, f"{example.study.study_id}  most {weights.max():.3f}"))
    half = (len(tiles) + 1) // 2
    return sheet([row for row in (tiles[:half], tiles[half:]) if row])


def _neighbour_sheet(
    encoder: "ImageEncoder", examples: "Examples", chosen: "list[Example]", count: int, cache: Path
) -> Image.Image:
    from llava_rad.probing import extract_features, nearest_neighbours
    from llava_rad.probing.pictures import sheet

    vectors = extract_features(
        encoder,
        [e.path for e in (*examples.train, *chosen)],
        cache=cache,
        progress=lambda done, of: say_once(f"encoded {done} of {of}"),
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


def _tile(example: "Example") -> Image.Image:
    """A radiograph in the middle of a black square."""
    from llava_rad.images import load_radiograph
    from llava_rad.probing.pictures import shrink

    picture = shrink(Image.fromarray(load_radiograph(example.path).pixels).convert("RGB"), TILE)
    square = Image.new("RGB", (TILE, TILE))
    square.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return square


def _about(example: "Example") -> str:
    """Sex, age, and the labels that are present."""
    study = example.study
    facts = [study.sex or "", "" if study.age is None else f"{study.age:.0f}"]
    facts += [name for name, value in study.labels.items() if value == 1]
    facts.append(study.extra.get("diagnosis", ""))
    return ", ".join(fact for fact in facts if fact) or study.study_id


def _write(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, format="png")
    write_bytes_result(path, content.getvalue())
    print(path)


app = program_app(main, __doc__, "eval/visualise.py")

if __name__ == "__main__":
    app()
