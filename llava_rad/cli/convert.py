"""``llava-rad convert``: checkpoints of other projects."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_rad.cli.common import status, user_errors, write_out
from llava_rad.cli.options import PrintFormat


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint's folder or hub id.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write, a new one.")],
    to: Annotated[
        Literal["llava-rad", "transformers", "llava"],
        typer.Option(
            help="This project's format; or, merged, for transformers with llava-rad's classes, or "
            "for transformers' own Llava, which cannot say every model."
        ),
    ] = "llava-rad",
    base_llm: Annotated[
        str | None, typer.Option(help="The LLM that a LoRA or adapter belongs to.")
    ] = None,
    vision_tower: Annotated[
        str | None,
        typer.Option(help="The encoder: a name, a folder, a hub id, or an open_clip checkpoint."),
    ] = None,
    vision_config: Annotated[
        str | None, typer.Option(help="The open_clip JSON that goes with such a checkpoint.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Another prompt than the checkpoint's: llava_rad, vicuna_v1, mistral, maira_2, "
            "maira_2_grounded (asks for boxes), plain, or a JSON file with a template."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the model.")] = None,
    format: PrintFormat = "text",
) -> None:
    """Read LLaVA-Rad, LLaVA, LLaVA-Med and MAIRA-2 models; write this format or transformers'.

    Example:
        llava-rad convert microsoft/llava-rad --base-llm lmsys/vicuna-7b-v1.5 -o models/llava-rad
    """
    with user_errors("nothing was written"):
        from llava_rad.interchange import convert as convert_checkpoint
        from llava_rad.model import read_prompt

        with status(f"Converting {source}"):
            result = convert_checkpoint(
                source,
                output,
                to=to,
                base_llm=base_llm,
                vision_tower=vision_tower,
                vision_config=vision_config,
                template=None if prompt is None else read_prompt(prompt),
                name=name,
            )
        write_out(json.dumps(result.to_dict(), indent=2) if format == "json" else str(result))
