"""``llava-rad configs``: the configurations that come with the project."""

from pathlib import Path
from typing import Annotated

import typer

from llava_rad.cli.command import LOOK, Command, Group
from llava_rad.cli.common import say, user_errors, write_out
from llava_rad.cli.options import Overwrite

configs = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List, show and copy the configurations that come with llava-rad.",
    **LOOK,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name that llava-rad configs list shows.")
]


@configs.command("list", cls=Command)
def list_configs() -> None:
    """List names, and what each configuration is for (the first sentence of its comment).

    Example:
        llava-rad configs list
    """
    with user_errors():
        from llava_rad.programs import CONFIG_KINDS, config_names

        known = config_names()
        width = max(map(len, known), default=0)
        for kind, purpose in CONFIG_KINDS.items():
            names = [name for name in known if name.startswith(f"{kind}/")]
            if names:
                write_out(f"{kind}: {purpose}")
            for name in names:
                write_out(f"  {name:<{width}}  {_purpose(known[name])}".rstrip())


@configs.command("show", cls=Command)
def show_config(name: Name) -> None:
    """Print a configuration.

    Example:
        llava-rad configs show report/vicuna_7b_lora
    """
    with user_errors():
        write_out(_find(name).read_text(encoding="utf-8").rstrip())


@configs.command("copy", cls=Command)
def copy_config(
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file, or an existing folder for it.")
    ] = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Copy a configuration, with those that it builds on, to change it.

    Example:
        llava-rad configs copy vicuna_7b_lora -o my_run.yaml
    """
    with user_errors():
        from llava_rad.errors import ConfigError

        source = _find(name)
        target = output / source.name if output.is_dir() else output
        copies = [(source, target)]
        while base := _base(copies[-1][0]):
            copies.append((base, target.parent / base.name))
        for _, file in copies:
            if file.exists() and not overwrite:
                raise ConfigError(
                    "this file is there already",
                    where=file,
                    remedy="Choose another --output, or replace it with --overwrite",
                )
        target.parent.mkdir(parents=True, exist_ok=True)
        for file, copy in copies:
            copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
            say(f"{copy}")


def _find(name: str) -> Path:
    from llava_rad.errors import ConfigError
    from llava_rad.programs import CONFIG_KINDS, config_names, find_config

    found = [kind for kind in CONFIG_KINDS if f"{kind}/{name}" in config_names()]
    if len(found) > 1:
        raise ConfigError(
            f"stands for several: {', '.join(f'{kind}/{name}' for kind in found)}", where=name
        )
    return find_config(name, found[0] if found else "report")


def _base(path: Path) -> Path | None:
    from llava_rad.errors import ConfigError
    from llava_rad.readers import parse_yaml, read_text

    values = parse_yaml(read_text(path, error=ConfigError), where=path, error=ConfigError)
    base = values.get("base") if isinstance(values, dict) else None
    return None if base is None else path.parent / base


def _purpose(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        comment.append(text)
    first, _, _ = " ".join(comment).partition(". ")
    return first.rstrip(".")
