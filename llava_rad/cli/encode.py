"""``llava-rad encode``: the tokens of images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.cli.common import progress, say, say_left_out, say_precision, status, user_errors
from llava_rad.cli.options import (
    BATCH_SIZE,
    BatchSize,
    Device,
    Encoder,
    Frame,
    Inputs,
    Overwrite,
    Precision,
)

if TYPE_CHECKING:
    from llava_rad.errors import LlavaRadError


def encode(
    images: Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    encoder: Encoder = "mini",
    batch_size: BatchSize = BATCH_SIZE,
    dtype: Precision = "auto",
    device: Device = "auto",
    frame: Frame = None,
    overwrite: Overwrite = False,
) -> None:
    """Write CLS and patch tokens of images to a safetensors file.

    Example:
        llava-rad encode scans/ --encoder rad-dino -o tokens.safetensors
    """
    with user_errors("what was encoded stays, the same command goes on from there"):
        from llava_rad.data import ConversionLog, expand_images
        from llava_rad.encoders import load_encoder
        from llava_rad.encoding import encode_to_file, is_token_file
        from llava_rad.errors import ConfigError
        from llava_rad.outputs import refuse_foreign, refuse_inputs
        from llava_rad.wording import counted, verb

        if output.suffix != ".safetensors":
            raise ConfigError(
                "tokens are written as safetensors alone",
                where=output,
                remedy=f"Name it {output.stem or output.name}.safetensors",
                kind="unknown_format",
            )
        log = ConversionLog()
        paths = expand_images(images, log=log)
        refuse_inputs(output, [*images, *paths])
        refuse_foreign(output, is_token_file, "file of tokens", overwrite=overwrite)
        say_left_out(log)
        with status(f"Loading {encoder}"):
            loaded = load_encoder(encoder, dtype=dtype, device=device)
        say_precision(dtype, str(loaded.dtype), device)
        with progress("Images", len(paths)) as advance:

            def told(_: str, error: "LlavaRadError | None") -> None:
                if error is not None:
                    say(f"error: {error}")
                advance()

            result = encode_to_file(
                output,
                loaded,
                paths,
                batch_size=batch_size,
                frame=frame,
                begin_anew=overwrite,
                told=told,
                resumed=lambda count: say(f"{count} of {len(paths)} {verb(count)} encoded already"),
            )
        ending = f", {len(result.failed)} of {len(paths)} failed" if result.failed else ""
        target = output if result.count else "nothing written"
        say(f"{counted(result.count, 'image')} -> {target}{ending}")
        if result.failed:
            raise typer.Exit(1)
