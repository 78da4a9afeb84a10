"""``llava-rad cache``: what is kept in the user's cache folder."""

import json
from datetime import datetime
from typing import Annotated

import typer

from llava_rad.cli.command import LOOK, Command, Group
from llava_rad.cli.common import say, user_errors, write_out
from llava_rad.cli.options import PrintFormat

cache = typer.Typer(
    cls=Group, no_args_is_help=True, help="List or clear what is kept between runs.", **LOOK
)


@cache.command("list", cls=Command)
def list_cache(format: PrintFormat = "text") -> None:
    """Show what the cache folder holds, its size and when it was last used.

    LLAVA_RAD_CACHE places the folder, LLAVA_RAD_CACHE_LIMIT (20GB) bounds its size.

    Example:
        llava-rad cache list
    """
    with user_errors():
        from llava_rad.caches import cache_limit, list_entries
        from llava_rad.files import size_text, user_cache

        folder, limit, entries = user_cache(), cache_limit(), list_entries()
        total = sum(entry.size for entry in entries)
        if format == "json":
            rows = [
                {"name": e.name, "holds": e.holds, "bytes": e.size, "used": _day(e.used)}
                for e in entries
            ]
            about = {"folder": str(folder), "bytes": total, "limit": limit, "entries": rows}
            write_out(json.dumps(about, indent=2))
            return
        for entry in entries:
            figures = f"{size_text(entry.size):>9}  {_day(entry.used)}"
            write_out(f"{figures}  {entry.name}  ({entry.holds})")
        bound = "no limit" if limit is None else f"limit {size_text(limit)}"
        write_out(f"{size_text(total):>9}  in {folder}, {bound}")


@cache.command(cls=Command)
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Names that llava-rad cache list shows."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Clear everything that is listed.")
    ] = False,
) -> None:
    """Remove things from the cache; they are made again when they are needed.

    Example:
        llava-rad cache clear --all
    """
    with user_errors():
        from llava_rad.caches import clear_entries
        from llava_rad.errors import ConfigError
        from llava_rad.files import size_text

        if bool(names) == everything:
            raise ConfigError("say what to clear", remedy="Give names, or --all for everything")
        freed = clear_entries(None if everything else names)
        say(f"{size_text(freed)} freed")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).date().isoformat()
