"""``llava-rad convert``: checkpoints of other projects."""

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import Format, status, user_errors, write_out


class Target(enum.StrEnum):
    """Formats that a checkpoint is converted to."""

    llava_rad = "llava-rad"
    transformers = "transformers"
    llava = "llava"


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint's folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder to write.")],
    to: Annotated[
        Target,
        typer.Option(
            help="This project's format; or, merged, for transformers with llava-rad's classes, or "
            "for transformers' own Llava, which cannot say every model."
        ),
    ] = Target.llava_rad,
    base_llm: Annotated[
        str | None, typer.Option(help="The LLM that a LoRA or adapter belongs to.")
    ] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="Encoder name, folder, hub id, or open_clip checkpoint.")
    ] = None,
    vision_config: Annotated[
        str | None, typer.Option(help="The open_clip JSON that goes with such a checkpoint.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Another prompt than the checkpoint's: llava_rad, vicuna_v1, mistral, maira_2, "
            "plain, or a JSON file with a template."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the model.")] = None,
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Read LLaVA-Rad, LLaVA, LLaVA-Med and MAIRA-2 models; write this format or transformers'."""
    with user_errors("nothing was written"):
        from llava_rad.interchange import convert as convert_checkpoint
        from llava_rad.model import read_prompt

        with status(f"Converting {source}"):
            result = convert_checkpoint(
                source,
                output,
                to=to.value,
                base_llm=base_llm,
                vision_tower=vision_tower,
                vision_config=vision_config,
                template=None if prompt is None else read_prompt(prompt),
                name=name,
            )
        write_out(json.dumps(result.to_dict(), indent=2) if format is Format.json else str(result))
