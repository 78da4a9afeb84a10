"""The command itself: one file of this folder a group of commands, joined here."""

import logging
from typing import Annotated

import typer

from llava_rad.cli.cache import cache
from llava_rad.cli.configs import configs
from llava_rad.cli.convert import convert
from llava_rad.cli.data import data
from llava_rad.cli.doctor import doctor
from llava_rad.cli.encode import encode
from llava_rad.cli.listen import listen
from llava_rad.cli.merge import merge
from llava_rad.cli.plan import plan
from llava_rad.cli.programs import add_programs, train
from llava_rad.cli.report import report
from llava_rad.cli.watch import watch

app = typer.Typer(
    name="llava-rad",
    help="Findings text from chest X-rays. For research; not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from llava_rad import __version__

        typer.echo(__version__)
        raise typer.Exit


app.command()(report)
app.command()(merge)
app.command()(watch)
app.command()(listen)
app.command()(train)
add_programs(app)
app.command()(encode)
app.command()(data)
app.command()(plan)
app.add_typer(configs, name="configs")
app.add_typer(cache, name="cache")
app.command()(convert)
app.command()(doctor)


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
