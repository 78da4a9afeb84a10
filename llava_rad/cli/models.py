"""``llava-rad models``: which weights there are, and how to get those that are not at hand."""

import json
import sys
from typing import Annotated

import typer

from llava_rad.cli.command import LOOK, Command, Group
from llava_rad.cli.common import say, user_errors, write_out
from llava_rad.cli.options import PrintFormat

models = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List models, encoders and the weights of metrics, and fetch what is not at hand.",
    **LOOK,
)


@models.command("list", cls=Command)
def list_models(format: PrintFormat = "text") -> None:
    """List report models, base LLMs, encoders and weights of metrics: at hand, or how to get them.

    Example:
        llava-rad models list
    """
    with user_errors():
        from llava_rad.inventory import KINDS, list_weights

        known = list_weights()
        if format == "json":
            rows = [
                {"kind": w.kind, "name": w.name, "about": w.about, "here": w.here}
                | {"place": w.place if w.here else None, "command": w.command or None}
                for w in known
            ]
            write_out(json.dumps(rows, indent=2))
            return
        width = max(len(weights.name) for weights in known)
        for kind, title in KINDS.items():
            write_out(title)
            for weights in known:
                if weights.kind == kind:
                    mark = "+" if weights.here else "-"
                    write_out(f"  {mark} {weights.name:<{width}}  {weights.about}")
                    write_out(f"    {'':<{width}}  {weights.state}")


@models.command(cls=Command)
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A name that llava-rad models list shows; mini fetches its LLM."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Fetch what is not at hand: say which command does it, ask, and run it.

    Example:
        llava-rad models fetch mini
        llava-rad models fetch rad-dino --yes
    """
    with user_errors():
        import subprocess

        from llava_rad.errors import ConfigError, WeightsError
        from llava_rad.inventory import executable, missing_for

        missing = missing_for(name)
        if not missing:
            say(f"{name}: everything is at hand")
        for weights in missing:
            command = executable(weights.fetch)
            say(f"{weights.name}: {weights.about}; this runs: {weights.command}")
            if not yes:
                if not sys.stdin.isatty():
                    raise ConfigError(
                        "nobody is there to be asked", where=name, remedy="Give --yes to run it"
                    )
                try:
                    agreed = typer.confirm("Run it?", default=True, err=True)
                except typer.Abort:
                    raise KeyboardInterrupt from None  # ends as everywhere
                if not agreed:
                    raise typer.Exit(1)
            # What it says is no result of ours: standard output stays clean.
            code = subprocess.run(command, stdout=sys.__stderr__, check=False).returncode
            if code:
                raise WeightsError(
                    f"the command ended with exit code {code}",
                    where=weights.command,
                    remedy="Its own message says why",
                    kind="not_fetched",
                )
            say(f"{weights.name} is at hand")
