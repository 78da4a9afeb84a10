"""``llava-rad doctor``: what this machine can do."""

import json

import typer

from llava_rad.cli.common import status, user_errors, write_out
from llava_rad.cli.options import PrintFormat


def doctor(format: PrintFormat = "text") -> None:
    """Say what is installed, which devices and number formats work, which weights are at hand.

    Example:
        llava-rad doctor --format json
    """
    with user_errors():
        from llava_rad.doctor import as_dict, examine

        with status("Examining"):
            checks = examine()
        if format == "json":
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
