"""The command itself: one file of this folder a group of commands, joined here."""

import logging
from typing import Annotated

import typer

from llava_rad.cli.cache import cache
from llava_rad.cli.command import LOOK, Command, grouped
from llava_rad.cli.configs import configs
from llava_rad.cli.convert import convert
from llava_rad.cli.data import data
from llava_rad.cli.doctor import doctor
from llava_rad.cli.encode import encode
from llava_rad.cli.listen import listen
from llava_rad.cli.merge import merge
from llava_rad.cli.models import models
from llava_rad.cli.plan import plan
from llava_rad.cli.programs import Programs, probe, train
from llava_rad.cli.report import report
from llava_rad.cli.serve import serve
from llava_rad.cli.watch import watch

app = typer.Typer(
    cls=Programs,
    name="llava-rad",
    help="Findings text from chest X-rays. For research; not for clinical use.",
    no_args_is_help=True,
    **LOOK,
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from llava_rad import __version__

        typer.echo(__version__)
        raise typer.Exit


for command in (report, merge, serve, watch, listen, encode, data, plan, train, convert, doctor):
    app.command(cls=Command)(grouped(command))
for name, group in (("probe", probe), ("configs", configs), ("models", models), ("cache", cache)):
    app.add_typer(group, name=name)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    from llava_rad.cli.common import say
    from llava_rad.ending import plain_ending

    # bitsandbytes mentions optional kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with plain_ending(say):  # before and after what a command says itself
        app(arguments)
