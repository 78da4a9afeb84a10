"""Look at what an encoder sees: three pictures of its tokens, and one of a head on them.

    python eval/visualise.py --encoder mini --manifest nih.jsonl -o runs/pictures
    python eval/visualise.py --encoder mini --manifest nih.jsonl -o OUT --head HEAD.safetensors

The output folder gets pca.png (the first three principal components of the patch tokens as red,
green and blue; like tokens have like colours, in all images; and the first alone), attention.png
(where CLS looks in the last block, in multiples of looking everywhere alike) and neighbours.png
(test images, and the training images whose CLS vectors are most like theirs).

--head draws observations.png too: what each patch adds to the logit of a trained head, in figures
that sum to what the head reads of the patches, and Grad-CAM of what it reads of CLS. A head is a
model's observations.safetensors or what eval/classification.py --save wrote.

The images are test images of the manifest, drawn by --seed. More tokens an image give finer maps:
--image-size 448. What was written goes to standard output, progress to standard error.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import (
    Judging,
    OutputFolder,
    Overwrite,
    Seed,
    device_of_process,
    names,
)
from llava_rad.ending import program_ending
from llava_rad.errors import ModelError
from llava_rad.outputs import write_bytes_result

if TYPE_CHECKING:
    import torch

    from llava_rad.encoders import ImageEncoder
    from llava_rad.head_maps import LabelHead
    from llava_rad.probing import Example, Examples
    from llava_rad.probing.gallery import Gallery, Tile

TILE = 224


def main(
    judging: Judging,
    output: OutputFolder,
    images: Annotated[int, typer.Option(min=1, help="How many test images are drawn.")] = 8,
    neighbours: Annotated[int, typer.Option(min=1, help="How many neighbours of each.")] = 5,
    head: Annotated[
        Path | None, typer.Option(help="A trained head of labels, to map its logits.")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Labels of --head with commas between; all if empty.")
    ] = "",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read, encode, draw."""
    with program_ending(), contextlib.ExitStack() as stack:
        # Heavy imports wait until the options are read.
        import torch

        from llava_rad.head_maps import load_label_head
        from llava_rad.outlines import seeing_whole_images
        from llava_rad.outputs import is_our_picture, own_results

        # 1. The encoder and some test images.
        loaded, examples, inputs = judging.open()
        explained = None if head is None else load_label_head(head, loaded, names(labels))
        files = ("pca.png", "attention.png", "neighbours.png", "observations.png")
        pictures = dict.fromkeys(files, is_our_picture)
        inputs = inputs if head is None else [*inputs, head]
        stack.enter_context(
            own_results(output, pictures, inputs, what="run of visualise", overwrite=overwrite)
        )
        order = np.random.default_rng(seed).permutation(len(examples.test))
        chosen = [examples.test[index] for index in sorted(order[:images])]

        # 2. Their tokens.
        whole = seeing_whole_images(loaded)
        pixels = torch.stack([_input(whole, example) for example in chosen])
        with torch.inference_mode():
            patches = whole.encode(pixels.to(device_of_process(judging.device))).patches.cpu()
        _write(_colour_sheet(whole, chosen, pixels, patches), output / "pca.png")

        # 3. The attention of CLS, where the encoder's family tells it.
        try:
            _write(_attention_sheet(whole, chosen, pixels), output / "attention.png")
        except ModelError as error:
            say_once(f"no attention.png: {error}")

        # 4. Neighbours among the training images.
        found = _neighbour_sheet(loaded, examples, chosen, neighbours, judging.cache)
        _write(found, output / "neighbours.png")

        # 5. Where the logits of the head come from.
        if explained is not None:
            sheet = _head_sheet(loaded, explained, examples, chosen, judging)
            _write(sheet, output / "observations.png")


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
) -> "Gallery":
    from llava_rad.probing.gallery import ColourBar, Gallery
    from llava_rad.probing.token_maps import principal_colours

    colours, shares = principal_colours(patches, encoder.grid(*pixels.shape[-2:]))
    ramp, ends = np.linspace(0, 1, 64), ("2nd percentile", "98th")
    first = [np.stack([grid[..., 0]] * 3, axis=-1) for grid in colours]
    bars = [
        ColourBar(
            f"component {i + 1}: {100 * share:.0f} % of the variance", np.outer(ramp, one), *ends
        )
        for i, (share, one) in enumerate(zip(shares, np.eye(3), strict=True))
    ]
    bars.append(ColourBar("component 1 alone", np.outer(ramp, np.ones(3)), *ends))
    return Gallery(
        f"Patch tokens of {encoder.name}: principal components",
        {
            "As the encoder sees them": _seen(encoder, examples, pixels),
            "Components 1, 2 and 3 as red, green and blue": _maps(colours, examples),
            "Component 1 alone": _maps(first, examples),
        },
        "Like tokens have like colours, in all images: the components are those of all of them "
        "together.",
        bars=bars,
    )


def _attention_sheet(
    encoder: "ImageEncoder", examples: "list[Example]", pixels: "torch.Tensor"
) -> "Gallery":
    from llava_rad.probing.gallery import ColourBar, Gallery, Tile
    from llava_rad.probing.pictures import heat, heat_colours
    from llava_rad.probing.token_maps import cls_attention

    attention = cls_attention(encoder, pixels.to(next(encoder.parameters()).device)).numpy()
    times = attention * attention[0].size  # 1 where CLS looks everywhere alike
    top = float(np.percentile(times, 99.5))
    tiles = []
    for image, weights in zip(pixels, times, strict=True):
        gray = Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE))
        most = f"at most {weights.max():.1f} times"
        tiles.append(Tile(heat(np.asarray(gray), weights, top=top), most))
    ramp = np.linspace(0, 1, 64)
    over_gray = heat_colours(ramp, np.full((64, 3), 0.4))
    return Gallery(
        f"Attention of CLS in the last block of {encoder.name}",
        {"As the encoder sees them": _seen(encoder, examples, pixels), "Attention": tiles},
        "Mean of all heads. 1 is what every patch would get if CLS looked everywhere alike. "
        "Attention does not explain what the encoder concludes.",
        bars=[ColourBar("attention, times the even share", over_gray, "0", f"{top:.1f} and more")],
    )


def _head_sheet(
    encoder: "ImageEncoder",
    head: "LabelHead",
    examples: "Examples",
    chosen: "list[Example]",
    judging: Judging,
) -> "Gallery":
    import torch

    from llava_rad.encoders import EncoderOutput
    from llava_rad.head_maps import grad_cam
    from llava_rad.probing import extract_features
    from llava_rad.probing.gallery import ColourBar, Gallery, Tile
    from llava_rad.probing.pictures import heat, heat_colours, signed_colours, signed_heat

    # The encoder's own view of an image, which the head was fitted to.
    pixels = torch.stack([_input(encoder, example) for example in chosen])
    placed = pixels.to(device_of_process(judging.device))
    with torch.inference_mode():
        seen = encoder.encode(placed)
    train = extract_features(encoder, [e.path for e in examples.train], cache=judging.cache)
    cls, patches = seen.cls.float().cpu(), seen.patches.float().cpu()
    shares = head.patch_shares(patches, train.mean.mean(0))
    from_cls = head.cls_share(cls, train.cls.mean(0))
    chances = head.logits(EncoderOutput(cls, patches)).sigmoid()
    grid = encoder.grid(*pixels.shape[-2:])
    grays = [
        np.asarray(Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE)))
        for image in pixels
    ]
    rows: dict[str, list[Tile]] = {"As the encoder sees them": _seen(encoder, chosen, pixels)}
    top = 0.0 if shares is None else float(np.percentile(shares.abs(), 99.5))
    for place, name in enumerate(head.names):
        if shares is not None:
            rows[f"{name}: what each patch adds"] = [
                Tile(
                    signed_heat(gray, share.unflatten(0, grid).numpy(), top=top),
                    f"{chance:.0%}: patches {share.sum():+.1f}, CLS {cls:+.1f}",
                )
                for gray, share, chance, cls in zip(
                    grays, shares[:, place], chances[:, place], from_cls[:, place], strict=True
                )
            ]
        if head.cls is not None:
            maps = grad_cam(encoder, placed, head.cls[place])
            brightest = np.percentile(maps.flatten(1), 99.5, axis=1)
            rows[f"{name}: Grad-CAM of what CLS adds"] = [
                Tile(heat(gray, found.numpy(), top=float(most)), f"{chance:.0%}: CLS {cls:+.1f}")
                for gray, found, most, chance, cls in zip(
                    grays, maps, brightest, chances[:, place], from_cls[:, place], strict=True
                )
            ]
    ramp, gray_ramp = np.linspace(-1, 1, 64), np.full((64, 3), 0.4)
    bars = []
    if shares is not None:
        colours = signed_colours(ramp, gray_ramp)
        bars.append(ColourBar("added to the logit", colours, f"{-top:.2g}", f"{top:+.2g}"))
    if head.cls is not None:
        warm = heat_colours(np.linspace(0, 1, 64), gray_ramp)
        bars.append(ColourBar("Grad-CAM, each image by itself", warm, "0", "its largest"))
    return Gallery(
        f"Where a head's logits come from, on {encoder.name}",
        rows,
        "Figures are logits beside those of the average training image; the patches' colours sum "
        "to theirs. Grad-CAM (last block) is an estimate and shows only what speaks for the label. "
        "A map explains the head, not the disease.",
        bars=bars,
    )


def _seen(
    encoder: "ImageEncoder", examples: "list[Example]", pixels: "torch.Tensor"
) -> "list[Tile]":
    from llava_rad.probing.gallery import Tile

    pictures = [Image.fromarray(_as_seen(encoder, image)).resize((TILE, TILE)) for image in pixels]
    return [Tile(p, example.study.study_id) for p, example in zip(pictures, examples, strict=True)]


def _maps(grids: Iterable[np.ndarray], examples: "list[Example]") -> "list[Tile]":
    from llava_rad.probing.gallery import Tile
    from llava_rad.probing.pictures import colour_grid

    tiles = [colour_grid(grid, (TILE, TILE)) for grid in grids]
    return [Tile(p, example.study.study_id) for p, example in zip(tiles, examples, strict=True)]


def _neighbour_sheet(
    encoder: "ImageEncoder", examples: "Examples", chosen: "list[Example]", count: int, cache: Path
) -> "Gallery":
    from llava_rad.probing import extract_features, nearest_neighbours
    from llava_rad.probing.gallery import Gallery, Tile

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
    rows = {}
    for example, indices, values in zip(chosen, nearest, similarity, strict=True):
        found = [examples.train[index] for index in indices]
        row = [Tile(_small(example), f"test image: {_about(example)}")]
        row += [
            Tile(_small(neighbour), f"{value:.2f}: {_about(neighbour)}")
            for neighbour, value in zip(found, values, strict=True)
        ]
        rows[f"{example.study.study_id} and the training images nearest to it"] = row
    return Gallery(
        f"Nearest neighbours by {encoder.name}",
        rows,
        "Before the colon: cosine of the CLS vectors, 1 for the same direction. After it: sex, age "
        "and the labels that are present.",
    )


def _small(example: "Example") -> Image.Image:
    from llava_rad.images import load_radiograph
    from llava_rad.probing.pictures import shrink

    return shrink(Image.fromarray(load_radiograph(example.path).pixels), TILE)


def _about(example: "Example") -> str:
    """Sex, age, and the labels that are present."""
    study = example.study
    facts = [study.sex or "", "" if study.age is None else f"{study.age:.0f}"]
    facts += [name.replace("_", " ") for name, value in study.labels.items() if value == 1]
    facts.append(study.extra.get("diagnosis", ""))
    return ", ".join(fact for fact in facts if fact) or study.study_id


def _write(gallery: "Gallery", path: Path) -> None:
    from llava_rad.probing.gallery import draw_gallery

    write_bytes_result(path, draw_gallery(gallery))
    print(path)


app = program_app(main, __doc__, "eval/visualise.py")

if __name__ == "__main__":
    app()
