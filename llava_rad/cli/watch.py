"""``llava-rad watch``: a folder as a stream of studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.cli.common import say, user_errors
from llava_rad.cli.options import Device, Model, Precision
from llava_rad.cli.serving import (
    FormatName,
    Formats,
    KeepIdentifiers,
    MaxNewTokens,
    Quiet,
    checked_formats,
    load_model,
    said_of,
)


def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The folder that studies come to.", exists=True, file_okay=False, metavar="FOLDER"
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The folder for the reports; by default beside the images."
        ),
    ] = None,
    format: Formats = [FormatName.text],  # noqa: B006 (typer copies it)
    keep_identifiers: KeepIdentifiers = False,
    quiet: Quiet = 10.0,
    model: Model = "mini",
    device: Device = "auto",
    dtype: Precision = "auto",
    max_new_tokens: MaxNewTokens = 256,
) -> None:
    """Report each study that comes to a folder, once, until it is stopped.

    A study is complete when none of its files has changed for the quiet time. Reports that were
    written are known again after a restart.

    Example:
        llava-rad watch /scans -o reports --format pdf
    """
    written: dict[str, Any] = {}

    def kept() -> str:
        return f"{said_of(written.get('results'))}; the same command resumes"

    with user_errors(kept):
        formats = checked_formats(format, keep_identifiers=keep_identifiers)

        from llava_rad.reports import GenerationSettings
        from llava_rad.serve.arrivals import Arrivals
        from llava_rad.serve.results import Results, own_state
        from llava_rad.serve.watch import watch as watch_folder

        with own_state(output or folder, keep_identifiers=keep_identifiers) as state:
            loaded, precision = load_model(model, device, dtype)
            results = written["results"] = Results(
                loaded,
                GenerationSettings(max_new_tokens=max_new_tokens),
                formats,
                state,
                folder,
                output,
                precision=precision,
                say=say,
            )
            say(f"watching {folder}")
            watch_folder(Arrivals(folder, quiet), results)
