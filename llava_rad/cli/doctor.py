"""``llava-rad doctor``: what this machine can do."""

import json
from typing import Annotated

import typer

from llava_rad.cli.common import Format, status, user_errors, write_out


def doctor(
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Say what is installed, which devices and number formats work, which weights are at hand."""
    with user_errors():
        from llava_rad.doctor import as_dict, examine

        with status("Examining"):
            checks = examine()
        if format is Format.json:
            write_out(json.dumps(as_dict(checks), indent=2))
        else:
            group = ""
            for check in checks:
                if check.group != group:
                    group = check.group
                    write_out(group)
                mark = {True: "+", False: "-", None: " "}[check.ok]
                write_out(f"  {mark} {check.name:<28} {check.value}")
        if any(check.ok is False and check.group == "packages" for check in checks):
            raise typer.Exit(1)
