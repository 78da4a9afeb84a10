"""Print the lowest direct versions that pyproject.toml allows, as constraints for pip.

python tests/lowest.py > lowest.txt
"""

import itertools
import re
import tomllib
from pathlib import Path


def lowest() -> list[str]:
    """A line ``name==version`` for each package with a lower bound."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found: dict[str, str] = {}
    for requirement in itertools.chain(project["dependencies"], *extras):
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if match:
            name, version = match.groups()
            if found.setdefault(name, version) != version:
                raise SystemExit(f"{name} has two lower bounds: {found[name]} and {version}")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lowest()))
