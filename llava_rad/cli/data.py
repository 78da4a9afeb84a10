"""``llava-rad data``: data sets as manifests."""

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import say, user_errors, write_out


def data(
    name: Annotated[str, typer.Argument(help="The data set's name; see --list.")] = "",
    root: Annotated[Path | None, typer.Argument(help="The folder it was unpacked into.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Manifest: .jsonl or .parquet.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="KEY=VALUE", help="The data set's own options."),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Training patients to move to validation.")
    ] = 0.0,
    test: Annotated[
        float, typer.Option(min=0, max=1, help="Training patients to move to test.")
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --output, whatever it holds.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List data sets and options.")] = False,
) -> None:
    """Turn a data set into a manifest."""
    with user_errors("nothing was written"):
        from llava_rad.data import ADAPTERS, adapter_options, convert
        from llava_rad.errors import ConfigError

        if list_:
            for known in ADAPTERS:
                options = ", ".join(f"{k}={v}" for k, v in adapter_options(known).items())
                write_out(f"{known:<16} {options}".rstrip())
            return
        if not name or root is None or output is None:
            raise ConfigError(
                "a data set, its folder and --output are needed",
                remedy="llava-rad data NAME ROOT -o FILE; llava-rad data --list names the sets",
            )
        given = [item.partition("=") for item in option or []]
        pairs = {key: value if sign else "true" for key, sign, value in given}
        result = convert(
            name, root, output, validation=validation, test=test, overwrite=overwrite, **pairs
        )
        splits = ", ".join(f"{count} {split}" for split, count in result.splits.items())
        say(
            f"{result.studies} studies ({splits}), {result.images} images, "
            f"{result.with_findings} with findings -> {result.output}"
        )
        for reason, ids in result.left_out.items():
            say(f"left out, {reason}: {len(ids)} ({', '.join(ids[:3])}{' ...' * (len(ids) > 3)})")
        for fact, ids in result.noted.items():
            say(f"noted, {fact}: {len(ids)}")
        say(f"every id is listed in {result.output}.report.json")
        write_out(result.sha256)
