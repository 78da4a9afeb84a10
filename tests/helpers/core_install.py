"""Make this process one of an installation without extras. Run as a program of its own.

    python core_install.py ARGUMENTS...

runs ``llava-rad ARGUMENTS``, several times with ``--`` between, where none of the extras' packages
can be found, and prints on a last line as JSON the exit codes and which of the names to avoid were
imported all the same.
"""

import importlib.machinery
import importlib.metadata
import json
import sys
from itertools import groupby

from llava_rad.extras import EXTRAS

HIDDEN = {module for modules in EXTRAS.values() for module in modules}
#: Packages that are slow to import and of no use to writing a report.
AVOIDED = ("peft", "bitsandbytes", "datasets", "sklearn", "matplotlib", "accelerate", "scipy")

#: Distributions whose module has another name.
MODULES = {
    "scikit-learn": "sklearn",
    "rouge-score": "rouge_score",
    "fpdf2": "fpdf",
    "pylibjpeg-libjpeg": "libjpeg",
}


def hide(modules: set[str]) -> None:
    """Have Python find neither these modules nor that they are installed."""
    finder, metadata = importlib.machinery.PathFinder, importlib.metadata
    find_spec, version, distributions = finder.find_spec, metadata.version, metadata.distributions

    def is_hidden(distribution):
        name = str(distribution).lower()
        return MODULES.get(name, name) in modules

    def find(name, path=None, target=None):
        return None if name.split(".")[0] in modules else find_spec(name, path, target)

    def version_of(name):
        if is_hidden(name):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    def all_but_hidden(**context):
        return (d for d in distributions(**context) if not is_hidden(d.metadata["Name"]))

    finder.find_spec = staticmethod(find)
    metadata.version, metadata.distributions = version_of, all_but_hidden


def main() -> None:
    """Run the commands."""
    hide(HIDDEN)
    from llava_rad.cli import main as command

    codes = []
    for separator, arguments in groupby(sys.argv[1:], lambda argument: argument == "--"):
        if separator:
            continue
        try:
            command(list(arguments))
            codes.append(0)
        except SystemExit as end:
            codes.append(end.code)
    print(json.dumps({"codes": codes, "imported": [m for m in AVOIDED if m in sys.modules]}))


if __name__ == "__main__":
    main()
