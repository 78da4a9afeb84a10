"""Models that come with the package."""

from pathlib import Path

#: Name -> folder.
BUNDLED = {"mini": Path(__file__).parent / "mini"}
