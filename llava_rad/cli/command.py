"""How commands and programs look: plain help that no terminal cuts, and parameters by group.

Text of a docstring is wrapped, its indented lines (examples) stay as they are. A parameter whose
type is a dataclass stands for its fields, so that several commands share their options:

    @dataclass(frozen=True)
    class Decoding:
        TITLE: ClassVar[str] = "Decoding"
        num_beams: Annotated[int, typer.Option(help="Number of beams.")] = 1

    @app.command(cls=Command)
    @grouped
    def report(decoding: Decoding) -> None: ...
"""

import copy
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

#: What every application of ours is made with.
LOOK: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

EXIT_CODES = (
    "Exit codes: 0 all done; 1 an input or the system failed; 2 wrong usage or a wrong setting; "
    "130 stopped by Ctrl-C (SIGINT); 143 stopped by SIGTERM."
)

# Sections of the help in this order, groups after them.
_FIRST = {"Arguments": 0, "Options": 1}
_CONTEXT = "command_context"
# Columns for names; what is left of 80 holds the longest default that there is.
_WIDEST = 24


class Command(TyperCommand):
    """A command whose help shows options by group and examples as they are typed."""

    #: How the text names the program, where it runs under the name of a command.
    program: str = ""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring."""
        text = self.help or ""
        if self.program and ctx.parent is not None:
            text = text.replace(f"python {self.program}", ctx.command_path)
        formatter.write_paragraph()
        write_text(text, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what the exit codes say, which is the same everywhere."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options group by group."""
        titles: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                title = getattr(parameter, "rich_help_panel", None) or (
                    "Arguments" if argument else "Options"
                )
                name, text = record
                titles.setdefault(title, []).append((name.replace(" range>", ">"), text))
        for title in sorted(titles, key=lambda title: _FIRST.get(title, len(_FIRST))):
            with formatter.section(title):
                formatter.write_dl(titles[title], col_max=_WIDEST)


class Group(TyperGroup):
    """A group of commands with the same help."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the group's text."""
        formatter.write_paragraph()
        write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then a line for each command."""
        Command.format_options(self, ctx, formatter)  # type: ignore[arg-type]
        rows = [(name, self.about(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def about(self, ctx: Any, name: str) -> str:
        """The line of a command: its first sentence."""
        command = self.get_command(ctx, name)
        text = (command.short_help or command.help or "") if command is not None else ""
        return " ".join(text.split("\n\n")[0].split())


def write_text(text: str, formatter: Any) -> None:
    """Write a docstring: paragraphs wrapped, indented lines as they are."""
    for indented, lines in groupby(text.strip().splitlines(), lambda line: line.startswith("    ")):
        if indented:
            for line in lines:
                formatter.write(f"{line}\n")
            continue
        for blank, paragraph in groupby(lines, lambda line: not line.strip()):
            if blank:
                formatter.write("\n")
            else:
                formatter.write_text(" ".join(line.strip() for line in paragraph))


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let each parameter of a command that is a dataclass stand for its fields.

    Fields are options, ``Annotated`` as parameters are. The class's ``TITLE`` heads them in the
    help. A field ``given`` is no option: it gets the names of those that the command line sets.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if dataclasses.is_dataclass(hint):
            groups[parameter.name] = hint
            parameters += _options_of(hint)
        else:
            parameters.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)
            )

    parameters.append(
        inspect.Parameter(
            _CONTEXT, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=typer.Context
        )
    )

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        context = values.pop(_CONTEXT, None)
        made = {}
        for name, group in groups.items():
            options = {field.name: values.pop(field.name) for field in _fields(group)}
            if any(field.name == "given" for field in dataclasses.fields(group)):
                given = frozenset(option for option in options if _is_given(context, option))
                made[name] = group(**options, given=given)
            else:
                made[name] = group(**options)
        return command(**values, **made)

    signature = inspect.Signature(parameters)
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def _is_given(context: Any, option: str) -> bool:
    """Whether the command line names an option, rather than leave it at its default."""
    source = context.get_parameter_source(option) if context is not None else None
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _fields(group: Any) -> Sequence[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(group) if f.init and f.name != "given"]


def _options_of(group: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in _fields(group):
        base, option = typing.get_args(hints[field.name])[:2]
        option = copy.copy(option)
        option.rich_help_panel = group.TITLE
        missing = field.default is dataclasses.MISSING
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if missing else field.default,
            annotation=Annotated[base, option],
        )


def program_app(main: Callable[..., Any], text: str | None, program: str) -> typer.Typer:
    """A program of one command.

    Args:
        main: parses nothing itself; its parameters may be groups of options.
        text: for ``--help``.
        program: the file, as its text names it.
    """
    app = typer.Typer(add_completion=False, **LOOK)
    kind = type("Program", (Command,), {"program": program})
    app.command(cls=kind, help=text, no_args_is_help=True)(grouped(main))
    return app
