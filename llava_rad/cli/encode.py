"""``llava-rad encode``: the tokens of images."""

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import (
    Precision,
    pick_device,
    pick_dtype,
    progress,
    say,
    say_left_out,
    status,
    user_errors,
)


def encode(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs or manifests.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    encoder: Annotated[
        str, typer.Option(help="A registered name, a folder, a hub id, or mini.")
    ] = "rad-dino",
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 8,
    dtype: Annotated[Precision, typer.Option(help="Number format of the tokens.")] = Precision.auto,
    frame: Annotated[
        int | None, typer.Option(min=1, help="Which picture of files that hold several.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """Write CLS and patch tokens of images to a safetensors file."""
    with user_errors():
        from llava_rad.data import ConversionLog, expand_images
        from llava_rad.encoders import load_encoder
        from llava_rad.encoding import encode_images, write_tokens
        from llava_rad.errors import LlavaRadError
        from llava_rad.model.loading import BUNDLED

        log = ConversionLog()
        paths = expand_images(images, log=log)
        say_left_out(log)
        place = pick_device(device)
        with status(f"Loading {encoder}"):
            source = str(BUNDLED[encoder] / "encoder") if encoder in BUNDLED else encoder
            loaded = load_encoder(source, dtype=pick_dtype(dtype, place), device=place)
        tokens = {}
        failed = 0
        with progress("Images", len(paths)) as advance:
            for path, result in encode_images(loaded, paths, batch_size=batch_size, frame=frame):
                if isinstance(result, LlavaRadError):
                    failed += 1
                    say(f"error: {result}")
                else:
                    tokens[path] = result
                advance()
        if tokens:
            write_tokens(output, loaded, tokens)
        ending = f", {failed} of {len(paths)} failed" if failed else ""
        say(f"{len(tokens)} images -> {output if tokens else 'nothing written'}{ending}")
        if failed:
            raise typer.Exit(1)
