"""The command line: parses, calls, prints.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 all done, 1 some inputs failed,
2 wrong usage. Heavy imports wait until a command runs, so that ``--help`` is quick.
"""

from llava_rad.cli.app import app, main

__all__ = ["app", "main"]
