"""The models that come with the package."""

from pathlib import Path

#: Name -> folder of the report model; its encoder lies in ``encoder`` below.
BUNDLED = {"mini": Path(__file__).parent / "mini"}
