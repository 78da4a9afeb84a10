"""``llava-rad merge``: the shards of a file of reports."""

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.common import say, user_errors
from llava_rad.cli.options import Overwrite


def merge(
    output: Annotated[
        Path,
        typer.Argument(help="The file that report --shard I/N -o OUTPUT named.", metavar="OUTPUT"),
    ],
    overwrite: Overwrite = False,
) -> None:
    """Join the shards OUTPUT.I-of-N of report into OUTPUT; incomplete or mixed ones are refused.

    Example:
        llava-rad merge reports.jsonl
    """
    with user_errors("nothing was written"):
        from llava_rad.outputs import own_file, refuse_foreign
        from llava_rad.reports.file import is_report_file, merge_shards
        from llava_rad.wording import counted

        refuse_foreign(output, is_report_file, "file of reports", overwrite=overwrite)
        with own_file(output, "report run"):
            merged = merge_shards(output)
        lost = counted(len(merged.failed), "study", "studies")
        failed = f", {lost} failed in them" if merged.failed else ""
        shards = counted(merged.shards, "shard")
        say(f"{counted(merged.reports, 'report')} of {shards} -> {output}{failed}")
        if merged.failed:
            raise typer.Exit(1)
